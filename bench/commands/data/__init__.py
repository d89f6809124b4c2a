"""The ``data`` command: examines a dataset before a long run."""
