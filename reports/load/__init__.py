"""Records of runs, read and checked."""
