"""Scores from numbers that were measured: TPME, PSCP, roofline."""
