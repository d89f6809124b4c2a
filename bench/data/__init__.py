"""Datasets: catalogues, their caches and readers, splits and batches."""
