"""The time of an installation on SQLite. SQLite has no clock of its own, and the host's may be set at any moment.

The one row of `installation` stores the moment at which this boot's `elapsed` was zero, and every process counts on
from there. So a step of the host's clock changes nothing by itself; a worker lets the stored time follow it. A new boot
starts at the host's time, but never before a time that was written earlier. See decision 0010.
"""

import sqlite3
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection

from jobs.boot_id import boot_id
from jobs.clock import Clock, elapsed

FORMAT: Final = "%Y-%m-%d %H:%M:%S.%f"
"""Format of `UtcDateTime` on SQLite."""
_READ: Final = "SELECT boot, began_at FROM installation"
_STORE: Final = "UPDATE installation SET boot = ?, began_at = ?"
_MOVE: Final = "UPDATE installation SET began_at = ? WHERE boot = ? AND began_at = ?"
_LAST_HEARTBEAT: Final = (
    "SELECT max(heartbeat_at) FROM (SELECT heartbeat_at FROM workers UNION ALL SELECT heartbeat_at FROM api_processes)"
)


class StoredClock:
    """Sets one process's clock by that row. Where a boot has no id, the clock is the host's. Safe to share."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._boot = boot_id()
        self._last_read: str | None = None

    def set(self, connection: Connection) -> bool:
        """Set the clock by the stored time of this boot; return False if there is none, or it cannot be read.

        Every write transaction does this, past SQLAlchemy as it then takes a few µs, so that nothing is written with a
        time that another process has since moved.
        """
        if self._boot is None:
            return False
        driver: Any = connection.connection.dbapi_connection
        try:
            boot, began_at = driver.execute(_READ).fetchone() or (None, None)
        except sqlite3.Error:  # the column is missing before the migration; the next statement meets any other error
            return False
        if boot != self._boot or began_at is None:
            return False
        if began_at != self._last_read:
            self._clock.follow(datetime.fromisoformat(began_at).replace(tzinfo=UTC))
            self._last_read = began_at
        return True

    def set_or_store(self, connection: Connection) -> None:
        """Set the clock; store its time if none is stored for this boot. For a write transaction.

        Raises:
            DBAPIError: the time could not be written.
        """
        if self.set(connection) or self._boot is None:
            return
        driver: Any = connection.connection.dbapi_connection
        with suppress(sqlite3.Error):
            driver.execute(_READ)
            began_at = self._clock.began_at or self._first_moment(driver) - timedelta(seconds=elapsed())
            connection.exec_driver_sql(_STORE, (self._boot, began_at.strftime(FORMAT)))
            self.set(connection)

    def move(self, connection: Connection, by: timedelta) -> bool:
        """Move the stored time for all processes; return False if another process was first, or no time is stored."""
        if not self.set(connection) or self._last_read is None:
            return False
        moved = datetime.fromisoformat(self._last_read) + by
        found = connection.exec_driver_sql(_MOVE, (moved.strftime(FORMAT), self._boot, self._last_read))
        return found.rowcount == 1 and self.set(connection)

    def _first_moment(self, driver: Any) -> datetime:
        """Return the host's time, or the last heartbeat if that is later, as on a host whose clock has no battery."""
        last: str | None = driver.execute(_LAST_HEARTBEAT).fetchone()[0]
        host = self._clock.host()
        return max(host, datetime.fromisoformat(last).replace(tzinfo=UTC)) if last else host
