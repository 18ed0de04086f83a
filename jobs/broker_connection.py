"""The connection to the broker. It is kept, because a new one costs ten times as much as a message.

After a failure the broker is not asked for a second, so that a dead one does not delay every caller.
"""

import ssl
from collections.abc import Callable
from contextlib import suppress
from threading import Lock
from time import monotonic
from typing import Any, Final, TypeVar
from uuid import uuid4

from amqp.exceptions import AMQPError
from celery import Celery
from kombu.connection import Connection
from kombu.entity import Exchange, Queue
from kombu.exceptions import ChannelError, KombuError, OperationalError
from kombu.message import Message
from kombu.transport.redis import Channel as RedisChannel
from redis.exceptions import (
    AskError,
    AuthenticationError,
    BusyLoadingError,
    ClusterCrossSlotError,
    ClusterError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)

from jobs.encoding import read_json
from jobs.ids import may_be_id

# RedisError: kombu passes on errors that its client raises within a command
BROKER_ERRORS: Final = (OSError, KombuError, OperationalError, ChannelError, AMQPError, RedisError)
# raised by Celery and kombu for a message that Celery did not send
MALFORMED: Final = (ValueError, TypeError, LookupError, AttributeError, RecursionError)
CLUSTER_ERRORS: Final = (AskError, ClusterCrossSlotError, ClusterError)
"""Replies of a Redis Cluster to a client of a single server; `MovedError` is an `AskError`."""
_CODES: Final = {
    ReadOnlyError: "READONLY",
    OutOfMemoryError: "OOM",
    BusyLoadingError: "LOADING",
    NoPermissionError: "NOPERM",
    AuthenticationError: "NOAUTH",
}
"""The codes that redis-py removes from a server's reply."""
FULL: Final = "max number of clients reached"
"""Redis' reply to one connection too many, which redis-py raises as a plain connection error."""
ANSWERS: Final = "it answers"
"""Start of the reason if the broker answers but refuses."""
CONNECT_SECONDS: Final = 2
QUIET_AFTER_FAILURE: Final = 1.0

T = TypeVar("T")


class SteadyConnection(Connection):
    """Tries every second to connect to a broker that is unavailable.

    Kombu's own pauses grow to 30 s, for which a worker would take no job after the broker has returned.
    """

    def ensure_connection(self, *args: Any, **options: Any) -> Connection:
        """Connect, and return once connected; the arguments are kombu's."""
        super().ensure_connection(*args, **{**options, "interval_start": 1, "interval_step": 0})  # type: ignore[no-untyped-call]  # kombu has no types
        return self


class BrokerUnavailable(Exception):
    """The broker cannot be used, or could not a moment ago. The message is the reason, `__cause__` a fresh error."""


class BrokerConnection:
    """One connection, used by one caller at a time. Safe to share between threads and greenlets."""

    def __init__(self, app: Celery, *, keep: bool) -> None:
        """`keep` must be False for a broker that does not acknowledge a message.

        On a connection that broke while idle, such a message would be lost unnoticed.
        """
        self._app = app
        self._keep = keep
        self._guard = Lock()
        self._connection: Connection | None = None
        self._quiet_until = 0.0
        self._reason = ""

    def use(self, act: Callable[[Connection], T]) -> T:
        """Return the result of `act` on the connection.

        Raises:
            BrokerUnavailable: it could not be made, or broke.
        """
        with self._guard:
            if monotonic() < self._quiet_until:
                raise BrokerUnavailable(self._reason)
            is_whole = False
            try:
                result = act(self._connected())
                is_whole = True
            except BROKER_ERRORS as error:
                self._quiet_until = monotonic() + QUIET_AFTER_FAILURE
                self._reason = refusal_of(error)
                raise BrokerUnavailable(self._reason) from error
            finally:
                if not (is_whole and self._keep):  # also if a greenlet is killed: an answer may be on its way
                    self._release()
            return result

    def close(self) -> None:
        """Close the connection; the next use makes another."""
        with self._guard:
            self._release()

    def _connected(self) -> Connection:
        if self._connection is None:
            self._connection = self._app.connection_for_write(connect_timeout=CONNECT_SECONDS)
            self._connection.ensure_connection(max_retries=0, timeout=CONNECT_SECONDS)
        return self._connection

    def _release(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(*BROKER_ERRORS):
                connection.release()


def refusal_of(error: BaseException) -> str:
    """Return the reason why the broker cannot be used, in the server's own words if it gave any."""
    seen: BaseException | None = error
    while seen is not None:
        code = next((code for kind, code in _CODES.items() if isinstance(seen, kind)), None)
        if code is not None:
            return f"{ANSWERS} {code}: {str(seen).removeprefix(f'{code} ')}"
        if isinstance(seen, ResponseError) or FULL in str(seen):
            return f"{ANSWERS} {seen}"
        if isinstance(seen, ssl.SSLError):
            return f"TLS with it fails: {getattr(seen, 'verify_message', None) or seen.reason or seen}"
        seen = seen.__cause__ or seen.__context__
    return f"it does not answer ({type(error).__name__})"


def try_write(connection: Connection, queue: str) -> None:
    """Write a key to Redis and delete it; do nothing with any other broker.

    A server that answers may still refuse writes: it may be a replica now, or its disk or memory may be full.

    Raises:
        RedisError: it refuses the write, or does not answer.
    """
    channel = connection.default_channel
    if isinstance(channel, RedisChannel):
        channel.client.lpush(queue, "x")  # not in a pipeline, which would prefix the server's message
        channel.client.delete(queue)


def queue_length(connection: Connection, queue: str) -> int:
    """Return the number of messages in this queue."""
    try:
        declared = connection.default_channel.queue_declare(queue, passive=True)
    except ChannelError:  # it is not declared yet
        return 0
    return int(declared.message_count)


def next_id(connection: Connection, queue: str) -> str | None:
    """Return the id in the oldest message of this queue, which Redis hands out next.

    Empty if there is no message, or if we did not send it. None from any other broker, which does not show it.
    """
    channel = connection.default_channel
    if not isinstance(channel, RedisChannel):
        return None
    key = f"{channel.global_keyprefix}{queue}"  # kombu does not add the prefix to this command
    try:
        found = read_json(channel.client.lindex(key, -1) or b"{}")["headers"]["id"]
    except MALFORMED:
        return ""
    return found if may_be_id(found) else ""


def read_together(connection: Connection, *queues: str) -> None:
    """Ask Redis for several queues in one command, as a worker does; do nothing with any other broker.

    Raises:
        RedisError: it cannot serve them together, as a cluster, or does not answer.
    """
    channel = connection.default_channel
    if isinstance(channel, RedisChannel):
        channel.client.exists(*queues)


def try_queue(connection: Connection, name: str, seconds: float) -> bool:
    """Send a message to a queue of this name and receive it as a worker does; return whether it came back.

    The queue is deleted afterwards.
    """
    token = uuid4().hex
    returned: list[object] = []
    trial = Queue(name, Exchange(name, type="direct"), routing_key=name, durable=False, auto_delete=True)
    bound = trial(connection.default_channel)

    def take(body: object, message: Message) -> None:
        message.ack()
        returned.append(body)

    with connection.Consumer([trial], callbacks=[take], accept=["json"], auto_declare=True):
        connection.Producer().publish(token, exchange=trial.exchange, routing_key=name, serializer="json")
        until = monotonic() + seconds
        while token not in returned and (left := until - monotonic()) > 0:
            with suppress(TimeoutError):
                connection.drain_events(timeout=left)
    bound.delete()
    return token in returned
