"""The ``doctor`` command: finds conditions on this machine that make measurements wrong."""
