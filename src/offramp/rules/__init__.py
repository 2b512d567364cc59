"""Dated rules of two jurisdictions and the engine that evaluates them."""
