"""Caches on disk: converted datasets, and arrays that are computed once."""
