"""Chips, systems, engines and prices as dated, sourced figures."""
