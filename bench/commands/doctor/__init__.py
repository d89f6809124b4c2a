"""The ``doctor`` command: conditions on this machine that would make the measurements wrong."""
