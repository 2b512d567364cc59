"""Serving simulation: what users feel."""
