"""Sections of report.md, one question each."""
