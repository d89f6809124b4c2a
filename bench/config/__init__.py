"""Configuration: the schema of a matrix file, the shipped presets, and the cells of a matrix."""
