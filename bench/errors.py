"""The one exception that a user can cause."""


class UserError(Exception):
    """Bad usage or bad input: one clear line that names the option, file, line or key. Exit status 2."""
