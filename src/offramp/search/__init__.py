"""Layout search: which layouts carry the demand within the SLO."""
