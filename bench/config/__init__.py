"""The matrix file: its schema, shipped recipes, and the cells that it stands for."""
