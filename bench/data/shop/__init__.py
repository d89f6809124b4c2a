"""The generated shop: a dataset whose true probabilities are known."""
