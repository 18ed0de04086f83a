"""The time of an installation on SQLite, which has no clock of its own, while the host's may be set at any moment.

The one row of `installation` keeps at which moment this boot's `elapsed` was zero, and every process counts on from
there. So a step of the host's clock moves nothing by itself; a worker lets the time follow it. Of a new boot the host's
clock says the moment once, but never one before what was noted earlier. See docs/decisions/0015-clocks.md.
"""

import sqlite3
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection

from jobs.boot_id import boot_id
from jobs.clock import Clock, elapsed

FORMAT: Final = "%Y-%m-%d %H:%M:%S.%f"
"""Of `UtcDateTime` on SQLite."""
_KEPT: Final = "SELECT boot, began_at FROM installation"
_KEEP: Final = "UPDATE installation SET boot = ?, began_at = ?"
_MOVE: Final = "UPDATE installation SET began_at = ? WHERE boot = ? AND began_at = ?"
_NOTED: Final = (
    "SELECT max(heartbeat_at) FROM (SELECT heartbeat_at FROM workers UNION ALL SELECT heartbeat_at FROM api_processes)"
)


class KeptTime:
    """Keeps one process's clock by that row; the clock is the host's where a boot has no name. Safe to share."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._boot = boot_id()
        self._known: str | None = None

    def look(self, connection: Connection) -> bool:
        """Set the clock by what is kept of this boot; False if nothing is, or cannot be read.

        Every write transaction does, past SQLAlchemy, as that takes some µs: what is written is never of a time that
        another process has left behind.
        """
        if self._boot is None:
            return False
        driver: Any = connection.connection.dbapi_connection
        try:
            boot, began_at = driver.execute(_KEPT).fetchone() or (None, None)
        except sqlite3.Error:  # it has no such column before it is migrated; any other error the next statement meets
            return False
        if boot != self._boot or began_at is None:
            return False
        if began_at != self._known:
            self._clock.follow(datetime.fromisoformat(began_at).replace(tzinfo=UTC))
            self._known = began_at
        return True

    def keep(self, connection: Connection) -> None:
        """Set the clock, and keep its time where none is kept of this boot. For a write transaction.

        Raises:
            DBAPIError: it could not be written.
        """
        if self.look(connection) or self._boot is None:
            return
        driver: Any = connection.connection.dbapi_connection
        with suppress(sqlite3.Error):
            driver.execute(_KEPT)
            began_at = self._clock.began_at or self._first_moment(driver) - timedelta(seconds=elapsed())
            connection.exec_driver_sql(_KEEP, (self._boot, began_at.strftime(FORMAT)))
            self.look(connection)

    def move(self, connection: Connection, by: timedelta) -> bool:
        """Set the time by so much, for all processes; False where another was quicker, or none is kept."""
        if not self.look(connection) or self._known is None:
            return False
        moved = datetime.fromisoformat(self._known) + by
        found = connection.exec_driver_sql(_MOVE, (moved.strftime(FORMAT), self._boot, self._known))
        return found.rowcount == 1 and self.look(connection)

    def _first_moment(self, driver: Any) -> datetime:
        """The host's, unless that lies before what was noted already, as where no battery keeps its clock."""
        noted: str | None = driver.execute(_NOTED).fetchone()[0]
        host = self._clock.host()
        return max(host, datetime.fromisoformat(noted).replace(tzinfo=UTC)) if noted else host
