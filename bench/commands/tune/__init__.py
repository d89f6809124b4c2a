"""The ``tune`` command: a search with the same number of trials and the same rules for every method."""
