"""What to buy, place and retire each quarter."""
