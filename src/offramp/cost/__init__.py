"""What one engine step takes on a chip: operator time, memory, collectives, energy, money. No clock, no queue."""
