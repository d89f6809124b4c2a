"""The ``tune`` command: searches options with the same number of trials and the same rules for every method."""
