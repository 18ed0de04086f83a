"""Ends what a database does not answer: a statement that takes too long, or a connection whose other end is gone.

A server that is frozen, or a line whose packets are dropped without a word, answers nothing at all, and a driver waits
for it without a limit. So each use of a connection is entered here with its limit, and a thread that looks at all of
them asks the server to cancel what is overdue, and closes the socket of what even that did not end. Whoever waits is
given the driver's own error, as if the connection had been lost.
"""

import os
import socket
from collections.abc import Callable
from contextlib import suppress
from threading import Event, Lock, Thread
from time import monotonic
from typing import Any, Final

import psycopg

LOOK_SECONDS: Final = 0.25
CANCEL_SECONDS: Final = 1.5
"""How long a server has for ending a statement that it was asked to cancel."""
SLOW_SECONDS: Final = 0.5
"""After which it is worth a look who holds up a transaction: well within the lock timeout."""
LINGER_SECONDS: Final = 10.0
"""How long the thread stays when nothing is in use."""


class Use:
    """One use of a connection, until the moment `until`; `is_over` once it was ended for taking longer.

    `patience` is how long, in seconds, the server has for ending it before the connection is cut.
    """

    __slots__ = ("began_at", "driver", "ended", "guard", "is_over", "max_wait", "until")

    def __init__(self, driver: Any, seconds: float, max_wait: float) -> None:
        self.max_wait = max_wait
        self.driver = driver
        self.began_at = monotonic()
        self.until = self.began_at + seconds
        self.is_over = False
        self.ended = False
        self.guard = Lock()


class TimeLimits:
    """Watches over the connections of one engine. Safe to share between threads and greenlets."""

    def __init__(self, on_slow: Callable[[], None]) -> None:
        """`on_slow` is called now and then while a use takes long; it must return at once."""
        self._on_slow = on_slow
        self._uses: dict[int, Use] = {}
        self._guard = Lock()
        self._is_watched = False
        self._stopping = Event()

    def begin(self, driver: Any, seconds: float, max_wait: float = CANCEL_SECONDS) -> Use:
        """Enter a use of psycopg's connection `driver`, which is to end within `seconds`."""
        use = Use(driver, seconds, max_wait)
        self._uses[id(use)] = use
        if not self._is_watched:
            self._watch()
        return use

    def end(self, use: Use) -> None:
        """Take a use off the list. A connection whose use `is_over` must not be used again."""
        with use.guard:
            use.ended = True
        del self._uses[id(use)]

    def stop(self) -> None:
        """End the thread."""
        self._stopping.set()

    def _watch(self) -> None:
        with self._guard:
            if not self._is_watched:
                self._is_watched = True
                self._stopping.clear()
                Thread(target=self._loop, name="time limits", daemon=True).start()

    def _loop(self) -> None:
        used_at = monotonic()
        while not self._stopping.wait(LOOK_SECONDS):
            now = monotonic()
            uses = list(self._uses.values())
            used_at = now if uses else used_at
            for use in uses:
                if now >= use.until:
                    self._end_overdue(use, now)
            if any(now - use.began_at >= SLOW_SECONDS for use in uses):
                self._on_slow()
            if now - used_at > LINGER_SECONDS:
                break
        with self._guard:
            self._is_watched = False
        if self._uses and not self._stopping.is_set():  # who came in between found us still there
            self._watch()

    @staticmethod
    def _end_overdue(use: Use, now: float) -> None:
        if not use.is_over and use.max_wait:
            use.is_over = True
            Thread(target=_cancel, args=(use.driver,), name="cancel", daemon=True).start()
        elif now >= use.until + use.max_wait:
            use.is_over = True
            _cut(use)


def _cancel(driver: Any) -> None:
    with suppress(psycopg.Error, OSError):
        driver.cancel_safe(timeout=CANCEL_SECONDS)


def _cut(use: Use) -> None:
    """Close the socket under whoever waits for it; not any more once the connection may be another's."""
    with use.guard, suppress(psycopg.Error, OSError):
        if not use.ended:
            with socket.socket(fileno=os.dup(use.driver.fileno())) as line:
                line.shutdown(socket.SHUT_RDWR)
