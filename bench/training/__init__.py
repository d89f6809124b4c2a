"""Training loop, budget, evaluation, probes and compilation, the same for every method."""
