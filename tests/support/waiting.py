"""Waiting for a condition: the only sleep in the tests."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

FIRST_PAUSE = 0.002
LONGEST_PAUSE = 0.1


def await_until(condition: Callable[[], T | None], timeout: float, message: str | Callable[[], str]) -> T:
    """Return the first true result of `condition`; fail with `message` after `timeout` seconds."""
    give_up_at = time.monotonic() + timeout
    pause = FIRST_PAUSE
    while not (found := condition()):
        if time.monotonic() >= give_up_at:
            raise AssertionError(f"after {timeout:g} s: {message() if callable(message) else message}")
        time.sleep(pause)
        pause = min(pause * 1.5, LONGEST_PAUSE)
    return found
