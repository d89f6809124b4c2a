"""The one exception that a user can cause."""

from bench.terminal import printable


class UserError(Exception):
    """Bad usage or bad input: one clear line that names the option, file, line or key. Exit status 2.

    What the line quotes from files may hold anything; it is made printable here, once for all.
    """

    def __init__(self, message: str):
        super().__init__(printable(message))
