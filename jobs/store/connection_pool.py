"""The connections of one process to PostgreSQL, shared by those who need one, and with other processes.

A server, a role or a pooler may refuse one more connection while those that are open come free within milliseconds. So
whoever is refused waits for one of our own, and an open connection that nobody has needed for a while is closed, for
another process may need it.
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
BESIDE_POOL: Final = 2
"""Of each process: an API's notes of what it answered, and whoever looks for locks or asks to cancel a statement."""
IDLE_SECONDS: Final = 1.0
"""A connection that was idle for longer is asked whether it still stands; a busy one is not, as asking doubles the cost
of a short read. What breaks between two uses within it breaks a transaction as it would have in its midst."""
SPARE_SECONDS: Final = 5.0
PRESSED_SECONDS: Final = 30.0
"""For so long after a refusal nothing is kept that nobody of ours waits for, but one connection."""
ANSWERED_SECONDS: Final = 1.0
"""A refusal that took longer did not come from a server that is well: nobody waits for the connections of one."""
REFUSED_SECONDS: Final = 1.0
"""For how long nobody else tries after a refusal, if there are connections of ours to wait for."""
AGAIN_SECONDS: Final = 0.1
FULL: Final = ("too many connections", "too many clients", "connection slots", "no more connections")
"""What PostgreSQL and poolers say who have no connection to spare; no SQLSTATE comes with a refused connection."""
_USED_AT: Final = "backburner_used_at"


def is_full(refusal: Exception) -> bool:
    """Whether a connection was refused for there being too many."""
    return any(each in str(refusal) for each in FULL)


class SharingPool(Pool):
    """At most `pool_size` connections, those used last first."""

    ping: Callable[[Any], None]
    """Asks a connection whether it still stands, and raises one of `errors` if it does not. Set by its owner."""
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
        """For a person."""
        return f"{self._open} of {self._most} connections open, {len(self._idle)} idle"

    def recreate(self) -> "SharingPool":
        """A fresh one like it, as SQLAlchemy wants after `dispose`."""
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
        """Close what is idle; what is in use is closed as it comes back."""
        with self._changed:
            idle, self._is_disposed = list(self._idle), True
            self._idle.clear()
            self._open -= len(idle)
        for record in idle:
            record.close()

    def _do_get(self) -> ConnectionPoolEntry:
        """A connection that stands.

        Raises:
            PoolTimeoutError: none of ours came free in time.
            Exception: the driver's; none could be opened, and there was none to wait for.
        """
        until = monotonic() + self._timeout
        refusal: Exception | None = None
        while True:
            record = self._take(until, refusal)
            if record is not None:
                if self._stands(record):
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
                self._gone(1)
                raise

    def _take(self, until: float, refusal: Exception | None) -> ConnectionPoolEntry | None:
        """One that is idle, or None and the right to open one more."""
        with self._changed:
            while True:
                if self._idle:
                    return self._idle.pop()
                if refusal is not None and not self._open and not is_full(refusal):
                    raise refusal
                now = monotonic()
                left, pause = until - now, self._refused_until - now
                if not self._open:  # nothing of ours to wait for
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

    def _gone(self, count: int) -> None:
        with self._changed:
            self._open -= count
            self._changed.notify(count)

    def _stands(self, record: ConnectionPoolEntry) -> bool:
        """Whether it can be used. Where one is broken, so are those that were idle for longer, most likely."""
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
            self._gone(len(broken))
            return False
        except BaseException:
            record.close()
            self._gone(1)
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
