"""The search for options: the same number of trials and the same rules for every method, by validation alone."""
