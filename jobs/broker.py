"""The line to the broker over which bells are rung: kept, as to connect anew costs ten times as much as to ring.

Whoever finds the broker away leaves it alone for a second, so that a dead one does not slow every caller down.
"""

from collections.abc import Callable
from contextlib import suppress
from threading import Lock
from time import monotonic
from typing import Final, TypeVar

from amqp.exceptions import AMQPError
from celery import Celery
from kombu.connection import Connection
from kombu.exceptions import ChannelError, KombuError, OperationalError
from redis.exceptions import RedisError

# the last: kombu lets through what its client raises within a command
BROKER_ERRORS: Final = (OSError, KombuError, OperationalError, ChannelError, AMQPError, RedisError)
# what Celery and kombu raise upon a message that no Celery has sent
MALFORMED: Final = (ValueError, TypeError, LookupError, AttributeError, RecursionError)
CONNECT_SECONDS: Final = 2
QUIET_AFTER_FAILURE: Final = 1.0

T = TypeVar("T")


class BrokerAway(Exception):
    """The broker does not answer, or did not a moment ago; the cause says which error told so, if any."""


class BrokerLine:
    """One connection, used by one caller at a time. Safe to share between threads and greenlets."""

    def __init__(self, app: Celery, *, keep: bool) -> None:
        """Not to `keep` it is for brokers to whom a message is sent without an answer.

        On a line that broke while it was idle, such a message would be lost without a word.
        """
        self._app = app
        self._keep = keep
        self._guard = Lock()
        self._connection: Connection | None = None
        self._quiet_until = 0.0

    def use(self, act: Callable[[Connection], T]) -> T:
        """What `act` makes of the connection.

        Raises:
            BrokerAway: it could not be had, or broke.
        """
        with self._guard:
            if monotonic() < self._quiet_until:
                raise BrokerAway
            is_whole = False
            try:
                result = act(self._connected())
                is_whole = True
            except BROKER_ERRORS as error:
                self._quiet_until = monotonic() + QUIET_AFTER_FAILURE
                raise BrokerAway from error
            finally:
                if not (is_whole and self._keep):  # also where a greenlet is killed: an answer may be on its way
                    self._let_go()
            return result

    def close(self) -> None:
        """Let go of the connection; the next use makes another."""
        with self._guard:
            self._let_go()

    def _connected(self) -> Connection:
        if self._connection is None:
            self._connection = self._app.connection_for_write(connect_timeout=CONNECT_SECONDS)
            self._connection.ensure_connection(max_retries=0, timeout=CONNECT_SECONDS)
        return self._connection

    def _let_go(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(*BROKER_ERRORS):
                connection.release()
