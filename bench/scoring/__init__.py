"""Scores from measured values: TPME, PSCP and the roofline bound. Pure functions on numbers."""
