"""What `doctor` found out about one thing."""

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True)
class Finding:
    """One line of the report. `hint` says what to do; it is empty where nothing needs doing."""

    name: str
    level: Level
    message: str
    hint: str = ""


def good(name: str, message: str) -> Finding:
    """All is well."""
    return Finding(name, Level.OK, message)


def doubtful(name: str, message: str, hint: str) -> Finding:
    """It works, or could not be told; somebody should look."""
    return Finding(name, Level.WARNING, message, hint)


def bad(name: str, message: str, hint: str) -> Finding:
    """It does not work."""
    return Finding(name, Level.ERROR, message, hint)
