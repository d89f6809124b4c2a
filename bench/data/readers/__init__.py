"""Readers of datasets in files: tables and pictures to a catalogue."""
