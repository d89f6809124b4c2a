"""Pretraining of the built-in encoders, and the linear probe that shows what vectors know."""
