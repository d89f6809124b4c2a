"""Comparisons, their tables and statistics: no text and no figures."""
