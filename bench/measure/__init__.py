"""What a step costs: its time by phase, memory, FLOPs and energy, and what disturbed the measurement."""
