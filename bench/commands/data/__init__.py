"""The ``data`` command: facts about a dataset before a long run."""
