"""Ends uses of a connection that take too long, whether a statement is slow or the other end is gone.

A frozen server, or a network that drops packets, never answers, and a driver waits without a limit. So each use of a
connection is registered here with its limit. A thread checks them all: it asks the server to cancel an overdue
statement, and if that does not end it, closes the socket. The caller gets the driver's own error, as if the connection
had been lost.
"""

import os
import socket
from collections.abc import Callable
from contextlib import suppress
from threading import Event, Lock, Thread
from time import monotonic
from typing import Any, Final

import psycopg

CHECK_SECONDS: Final = 0.25
CANCEL_SECONDS: Final = 1.5
"""Time that a server has to end a statement that it was asked to cancel."""
SLOW_SECONDS: Final = 0.5
"""Age of a use after which to look for a session that blocks it: well within the lock timeout."""
LINGER_SECONDS: Final = 10.0
"""Time that the thread stays after the last use."""


class ConnectionUse:
    """One use of a connection, which is to end by `until`. `is_overdue` is set once it was ended for taking longer.

    `max_wait` is the time in seconds that the server has to cancel the statement before the socket is closed.
    """

    __slots__ = ("began_at", "driver", "ended", "guard", "is_overdue", "max_wait", "until")

    def __init__(self, driver: Any, seconds: float, max_wait: float) -> None:
        self.max_wait = max_wait
        self.driver = driver
        self.began_at = monotonic()
        self.until = self.began_at + seconds
        self.is_overdue = False
        self.ended = False
        self.guard = Lock()


class StatementTimeouts:
    """The limits on the connections of one engine. Safe to share between threads and greenlets."""

    def __init__(self, on_slow: Callable[[], None]) -> None:
        """`on_slow` is called repeatedly while a use takes long; it must return at once."""
        self._on_slow = on_slow
        self._uses: dict[int, ConnectionUse] = {}
        self._guard = Lock()
        self._is_watched = False
        self._stopping = Event()

    def begin(self, driver: Any, seconds: float, max_wait: float = CANCEL_SECONDS) -> ConnectionUse:
        """Register a use of psycopg's connection `driver`, which is to end within `seconds`."""
        use = ConnectionUse(driver, seconds, max_wait)
        self._uses[id(use)] = use
        if not self._is_watched:
            self._watch()
        return use

    def end(self, use: ConnectionUse) -> None:
        """Remove a use. If it `is_overdue`, its connection must not be used again."""
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
                Thread(target=self._loop, name="statement timeouts", daemon=True).start()

    def _loop(self) -> None:
        used_at = monotonic()
        while not self._stopping.wait(CHECK_SECONDS):
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
        if self._uses and not self._stopping.is_set():  # a use that began just now still saw this thread
            self._watch()

    @staticmethod
    def _end_overdue(use: ConnectionUse, now: float) -> None:
        if not use.is_overdue and use.max_wait:
            use.is_overdue = True
            Thread(target=_cancel, args=(use.driver,), name="cancel", daemon=True).start()
        elif now >= use.until + use.max_wait:
            use.is_overdue = True
            _close_socket(use)


def _cancel(driver: Any) -> None:
    with suppress(psycopg.Error, OSError):
        driver.cancel_safe(timeout=CANCEL_SECONDS)


def _close_socket(use: ConnectionUse) -> None:
    """Shut down the socket under a use, unless it has ended: then the connection may be in another use."""
    with use.guard, suppress(psycopg.Error, OSError):
        if not use.ended:
            with socket.socket(fileno=os.dup(use.driver.fileno())) as copy:
                copy.shutdown(socket.SHUT_RDWR)
