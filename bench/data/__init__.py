"""Catalogues, sequences and batches."""
