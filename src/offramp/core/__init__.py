"""Records, units, figures, errors, seeds and results: what every layer stands on. msgspec and the standard library only."""
