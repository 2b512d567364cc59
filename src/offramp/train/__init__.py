"""Training runs: step time, memory, layouts, failures, and when a run is done. Pure; one torch device is the unit."""
