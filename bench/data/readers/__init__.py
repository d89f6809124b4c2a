"""Datasets in files, from their tables and pictures to a catalogue."""
