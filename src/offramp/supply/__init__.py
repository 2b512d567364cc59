"""How many accelerators reach a market and a buyer each quarter: structural Monte-Carlo over sourced figures."""
