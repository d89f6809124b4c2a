"""Helpers that know nothing of the project: errors, text, files, locks, sizes."""
