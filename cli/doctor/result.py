"""The result of one check of `doctor`."""

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """The severity of a result."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True)
class CheckResult:
    """One line of the report. `hint` says what to do, and is empty if there is nothing to do."""

    name: str
    level: Level
    message: str
    hint: str = ""


def passed(name: str, message: str) -> CheckResult:
    """Return a result with nothing to do."""
    return CheckResult(name, Level.OK, message)


def warning(name: str, message: str, hint: str) -> CheckResult:
    """Return a result that an operator should look at: it works, or it could not be checked."""
    return CheckResult(name, Level.WARNING, message, hint)


def failed(name: str, message: str, hint: str) -> CheckResult:
    """Return the result of something that does not work."""
    return CheckResult(name, Level.ERROR, message, hint)
