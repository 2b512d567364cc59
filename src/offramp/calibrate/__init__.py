"""Fits the cost model's parameters to measurements."""
