"""Measurement of training steps: time by phase, memory, FLOPs, energy, and disturbances by other processes."""
