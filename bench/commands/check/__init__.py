"""The ``check`` command: conformance checks for built-in and third-party methods."""
