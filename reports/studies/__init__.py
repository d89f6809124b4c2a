"""Studies over several comparisons, each in the report wherever its cells are."""
