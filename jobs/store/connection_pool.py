"""The pool of one process's connections to PostgreSQL, considerate of other processes.

A server, a role or a pooler may refuse one more connection while the open ones come free within milliseconds. So after
a refusal the pool waits for one of its own. A connection that has been idle for a while is closed, as another process
may need it.
"""

from collections import deque
from collections.abc import Callable
from threading import Condition
from time import monotonic
from typing import Any, Final

from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.pool import ConnectionPoolEntry, Pool

API_CONNECTIONS: Final = 40
WORKER_CONNECTIONS: Final = 20
OUTSIDE_POOL: Final = 2
"""Connections of a process outside its pool: an API's `open_not_durable`, and one that finds locks or cancels."""
IDLE_SECONDS: Final = 1.0
"""Idle time after which a connection is pinged before use. A busier one is not, as a ping doubles the cost of a short
read. If it breaks within this time, the transaction fails as it would if it broke midway."""
SPARE_SECONDS: Final = 5.0
PRESSED_SECONDS: Final = 30.0
"""Time after a refusal in which only one idle connection is kept, unless someone in this process waits."""
ANSWERED_SECONDS: Final = 1.0
"""A refusal that took longer comes from a server in trouble: its error is raised instead of waiting."""
REFUSED_SECONDS: Final = 1.0
"""Time after a refusal in which no new connection is tried, if there are open ones to wait for."""
AGAIN_SECONDS: Final = 0.1
FULL: Final = ("too many connections", "too many clients", "connection slots", "no more connections")
"""Parts of the messages of PostgreSQL and poolers without a free connection. A refusal has no SQLSTATE."""
_USED_AT: Final = "backburner_used_at"


def is_full(refusal: Exception) -> bool:
    """Return whether a connection was refused because there are too many."""
    return any(each in str(refusal) for each in FULL)


class SharingPool(Pool):
    """At most `pool_size` connections, last used first."""

    ping: Callable[[Any], None]
    """Checks a connection, and raises one of `errors` if it is broken. Set by the pool's owner."""
    errors: tuple[type[Exception], ...] = ()

    def __init__(self, creator: Any, pool_size: int = 5, timeout: float = 10.0, **options: Any) -> None:
        super().__init__(creator, **options)
        self._most = pool_size
        self._timeout = timeout
        self._changed = Condition()
        self._idle: deque[ConnectionPoolEntry] = deque()
        self._open = 0
        self._is_disposed = False
        self._refused_until = -PRESSED_SECONDS
        self._waiting = 0

    def status(self) -> str:
        """Return the pool's state in words."""
        return f"{self._open} of {self._most} connections open, {len(self._idle)} idle"

    def recreate(self) -> "SharingPool":
        """Return a fresh pool like this one. SQLAlchemy calls it after `dispose`."""
        fresh = SharingPool(
            self._creator,
            pool_size=self._most,
            timeout=self._timeout,
            recycle=self._recycle,
            echo=self.echo,
            logging_name=self._orig_logging_name,
            pre_ping=self._pre_ping,
            reset_on_return=self._reset_on_return,
            _dispatch=self.dispatch,
            dialect=self._dialect,
        )
        fresh.ping, fresh.errors = self.ping, self.errors
        return fresh

    def dispose(self) -> None:
        """Close the idle connections. Those in use are closed when they are returned."""
        with self._changed:
            idle, self._is_disposed = list(self._idle), True
            self._idle.clear()
            self._open -= len(idle)
        for record in idle:
            record.close()

    def _do_get(self) -> ConnectionPoolEntry:
        """Return a working connection.

        Raises:
            PoolTimeoutError: no connection of the pool came free in time.
            Exception: the driver's; none could be opened, and there was none to wait for.
        """
        until = monotonic() + self._timeout
        refusal: Exception | None = None
        while True:
            record = self._take(until, refusal)
            if record is not None:
                if self._works(record):
                    return record
                continue
            began_at = monotonic()
            try:
                return self._create_connection()
            except self.errors as error:
                refusal = error
                self._refused()
                if monotonic() - began_at > ANSWERED_SECONDS and not is_full(error):
                    raise
            except BaseException:
                self._forget(1)
                raise

    def _take(self, until: float, refusal: Exception | None) -> ConnectionPoolEntry | None:
        """Return an idle connection, or None, which is leave to open one more."""
        with self._changed:
            while True:
                if self._idle:
                    return self._idle.pop()
                if refusal is not None and not self._open and not is_full(refusal):
                    raise refusal
                now = monotonic()
                left, pause = until - now, self._refused_until - now
                if not self._open:  # there is none to wait for
                    pause -= REFUSED_SECONDS - AGAIN_SECONDS
                if self._open < self._most and pause <= 0:
                    self._open += 1
                    return None
                if left <= 0:
                    raise refusal or PoolTimeoutError(f"no connection came free in {self._timeout:g} s")
                self._waiting += 1
                try:
                    self._changed.wait(min(left, pause) if self._open < self._most else left)
                finally:
                    self._waiting -= 1

    def _refused(self) -> None:
        with self._changed:
            self._open -= 1
            self._refused_until = monotonic() + REFUSED_SECONDS
            self._changed.notify()

    def _forget(self, count: int) -> None:
        with self._changed:
            self._open -= count
            self._changed.notify(count)

    def _works(self, record: ConnectionPoolEntry) -> bool:
        """Return whether a connection works. If not, those idle for longer are closed too, as likely broken."""
        if monotonic() - record.info.get(_USED_AT, 0.0) < IDLE_SECONDS:
            return True
        try:
            self.ping(record.dbapi_connection)
        except self.errors:
            with self._changed:
                broken = [record, *self._idle]
                self._idle.clear()
            for each in broken:
                each.close()
            self._forget(len(broken))
            return False
        except BaseException:
            record.close()
            self._forget(1)
            raise
        return True

    def _is_spare(self, record: ConnectionPoolEntry, now: float, *, pressed: bool) -> bool:
        return now - record.info.get(_USED_AT, 0.0) > SPARE_SECONDS or (pressed and len(self._idle) > 1)

    def _do_return_conn(self, record: ConnectionPoolEntry) -> None:
        now = monotonic()
        record.info[_USED_AT] = now
        spare: list[ConnectionPoolEntry] = []
        with self._changed:
            if record.dbapi_connection is None or self._is_disposed:
                spare.append(record)
            else:
                self._idle.append(record)
            pressed = not self._waiting and now < self._refused_until + PRESSED_SECONDS
            while self._idle and self._is_spare(self._idle[0], now, pressed=pressed):
                spare.append(self._idle.popleft())
            self._open -= len(spare)
            self._changed.notify(max(1, len(spare)))
        for each in spare:
            each.close()
