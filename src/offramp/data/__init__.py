"""Shipped facts: TOML and CSV only."""
