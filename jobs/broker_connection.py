"""The line to the broker over which bells are rung: kept, as to connect anew costs ten times as much as to ring.

Whoever finds the broker away leaves it alone for a second, so that a dead one does not slow every caller down.
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

# the last: kombu lets through what its client raises within a command
BROKER_ERRORS: Final = (OSError, KombuError, OperationalError, ChannelError, AMQPError, RedisError)
# what Celery and kombu raise upon a message that no Celery has sent
MALFORMED: Final = (ValueError, TypeError, LookupError, AttributeError, RecursionError)
CLUSTER_ERRORS: Final = (AskError, ClusterCrossSlotError, ClusterError)
"""What a Redis Cluster says to who asks it as one server; `MovedError` is an `AskError`."""
_CODES: Final = {
    ReadOnlyError: "READONLY",
    OutOfMemoryError: "OOM",
    BusyLoadingError: "LOADING",
    NoPermissionError: "NOPERM",
    AuthenticationError: "NOAUTH",
}
"""The codes that redis-py cuts off what a server replied."""
FULL: Final = "max number of clients reached"
"""What Redis says to one connection too many; redis-py takes it for any other error of a connection."""
ANSWERS: Final = "it answers"
"""What the reason begins with where the broker is there and refuses."""
CONNECT_SECONDS: Final = 2
QUIET_AFTER_FAILURE: Final = 1.0

T = TypeVar("T")


class SteadyConnection(Connection):
    """Looks every second for a broker that is away.

    Kombu's own pauses grow to 30 s: so long would every worker take no job once the broker is back.
    """

    def ensure_connection(self, *args: Any, **options: Any) -> Connection:
        """Connect, and come back once that has worked; the arguments are kombu's."""
        super().ensure_connection(*args, **{**options, "interval_start": 1, "interval_step": 0})  # type: ignore[no-untyped-call]  # kombu has no types
        return self


class BrokerUnavailable(Exception):
    """The broker cannot be used, or could not a moment ago, and why; the cause is the error that told so, if any."""


class BrokerConnection:
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
        self._reason = ""

    def use(self, act: Callable[[Connection], T]) -> T:
        """What `act` makes of the connection.

        Raises:
            BrokerUnavailable: it could not be had, or broke.
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


def refusal_of(error: BaseException) -> str:
    """Why the broker cannot be used, for whoever operates it: the server's own words, if it gave any."""
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
    """Write to Redis what is gone at once; to any other broker nothing.

    A server that answers may take no writes: one that has become a replica, or whose disk or memory is full.

    Raises:
        RedisError: it takes none, or does not answer.
    """
    channel = connection.default_channel
    if isinstance(channel, RedisChannel):
        channel.client.lpush(queue, "x")  # in no pipeline, which would put words of its own before the server's
        channel.client.delete(queue)


def queue_length(connection: Connection, queue: str) -> int:
    """How many messages wait in this queue."""
    try:
        declared = connection.default_channel.queue_declare(queue, passive=True)
    except ChannelError:  # nobody has declared it yet
        return 0
    return int(declared.message_count)


def next_id(connection: Connection, queue: str) -> str | None:
    """The id in the message that Redis hands out next from this queue, which is its oldest.

    Empty if there is none, or it is none of ours: anything may be put there. None from any other broker, which does not
    show it.
    """
    channel = connection.default_channel
    if not isinstance(channel, RedisChannel):
        return None
    key = f"{channel.global_keyprefix}{queue}"  # this command is not among those that kombu puts it before
    try:
        found = read_json(channel.client.lindex(key, -1) or b"{}")["headers"]["id"]
    except MALFORMED:
        return ""
    return found if may_be_id(found) else ""


def read_together(connection: Connection, *queues: str) -> None:
    """Ask Redis for several queues at once, as a worker does to take the next message; any other broker for nothing.

    Raises:
        RedisError: it does not serve them together, as a cluster, or does not answer.
    """
    channel = connection.default_channel
    if isinstance(channel, RedisChannel):
        channel.client.exists(*queues)


def try_queue(connection: Connection, name: str, seconds: float) -> bool:
    """Put a message into a queue of this name and take it out as a worker does; False if it does not come back.

    The queue is gone afterwards.
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
