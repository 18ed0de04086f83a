"""The failure of a command, reported as one line on stderr without a traceback."""

from jobs.errors import BackburnerError


class CommandFailed(BackburnerError):
    """An expected failure. Its text is shown to the user, so it names what to change."""
