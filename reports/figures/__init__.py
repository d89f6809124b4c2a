"""Figures of a report, drawn without a display."""
