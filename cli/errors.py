"""What a command reports when it cannot do what it was asked: one line on stderr, never a traceback."""

from jobs.errors import BackburnerError


class CommandFailed(BackburnerError):
    """An expected failure. Its text is shown to a person as it stands, so it names what to change."""
