"""Launchers that run cells in separate processes, on this machine or on a Ray cluster."""
