"""Rows of CSV, TSV and parquet files: their columns, types, times and ids."""
