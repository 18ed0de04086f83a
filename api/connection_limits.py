"""Limits on the connections of one process: their number, and the time that each may keep the process waiting.

One check of all connections every few seconds costs less than a timer for each, as most requests end before the next.
"""

import asyncio
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

from jobs.settings import Settings
from jobs.telemetry import get_logger

STATE: Final = "connections"
"""Key of the lifespan's state for the `Connections` that uvicorn passes to each protocol."""
REFUSED_AT_ONCE: Final = 64
"""Connections above the limit that are answered with an error; any more are closed without one."""
FILES_BESIDE: Final = 300
"""Files that a process needs besides connections: for its database, its broker and its listening sockets."""
LOOKS_PER_LIMIT: Final = 10
LONGEST_PAUSE: Final = 3.0

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of connections; times in seconds."""

    connections: int = 10_000
    head: float = 30.0
    body: float = 30.0
    write: float = 60.0

    @classmethod
    def from_settings(cls, settings: Settings, files: int) -> "Limits":
        """Return the settings' limits for a process that may open `files` files."""
        return cls(
            min(settings.max_connections, max(1, files - FILES_BESIDE)),
            settings.head_timeout_seconds,
            settings.body_timeout_seconds,
            settings.write_timeout_seconds,
        )


class Ended(StrEnum):
    """A reason to end a connection."""

    SLOW_HEAD = "slow_head"
    SLOW_BODY = "slow_body"
    STALLED_READER = "stalled_reader"


class Connection(Protocol):
    """One connection, which checks itself."""

    def look(self, now: float) -> Ended | None:
        """End the connection if it has taken too long by `now`, and return the reason."""


class Connections:
    """All connections of a process."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.refused = 0
        self._open: set[Connection] = set()
        self._next_look: asyncio.TimerHandle | None = None
        self._pause = min(LONGEST_PAUSE, min(limits.head, limits.body, limits.write) / LOOKS_PER_LIMIT)

    def __len__(self) -> int:
        return len(self._open)

    @property
    def is_full(self) -> bool:
        """Return whether there are more connections than allowed."""
        return len(self._open) > self.limits.connections

    @property
    def is_crowded(self) -> bool:
        """Return whether there are too many connections even to answer one more with an error."""
        return len(self._open) > self.limits.connections + REFUSED_AT_ONCE

    def add(self, connection: Connection, loop: asyncio.AbstractEventLoop) -> None:
        """Check this connection from now on."""
        self._open.add(connection)
        if self._next_look is None:
            self._next_look = loop.call_later(self._pause, self._look, loop)

    def remove(self, connection: Connection) -> None:
        """Stop checking it: it is closed, or no longer HTTP."""
        self._open.discard(connection)
        if not self._open and self._next_look is not None:
            self._next_look.cancel()
            self._next_look = None

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        ended = Counter(str(reason) for each in list(self._open) if (reason := each.look(now)) is not None)
        if ended:
            log.info("connections ended", **ended)
        if self.refused:
            log.warning("connections refused", count=self.refused, limit=self.limits.connections)
            self.refused = 0
        self._next_look = loop.call_later(self._pause, self._look, loop) if self._open else None
