"""A model before and while it is loaded: its files, its processor, and checks that it computes what it should."""
