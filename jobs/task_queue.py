"""The doorbell: a Celery message that carries a job's id and nothing else.

It may be lost, doubled or late and nobody is hurt: the row is the job. So ringing never raises, and Celery neither
retries nor keeps results; with two schedulers nobody knows which one ran.
"""

import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Any, Final

from celery import Celery
from celery.app.amqp import task_message
from kombu.connection import Connection
from kombu.entity import Exchange, Queue
from kombu.transport.redis import Channel as RedisChannel
from sqlalchemy import Connection as DatabaseConnection
from sqlalchemy.exc import SQLAlchemyError

from jobs.amqp_url import is_amqps, tls_of_amqps, without_tls_options
from jobs.broker_connection import (
    CONNECT_SECONDS,
    BrokerAway,
    BrokerConnection,
    SteadyConnection,
    next_in,
    queue_length,
    try_write,
)
from jobs.broker_names import GetNames, Names
from jobs.environment import forget_celerys
from jobs.redis_url import Sentinels, for_kombu, is_sentinel, tls_of
from jobs.settings import Settings
from jobs.store.database import READ_SECONDS, Database, database_now
from jobs.store.provider_limits import ProviderLimit, ProviderLimitSettings, calls_out, read_provider_limit
from jobs.store.workers import live_slots
from jobs.telemetry import get_logger

EXECUTE: Final = "backburner.execute"
DELIVER: Final = "backburner.deliver"
ANSWER_SECONDS: Final = 3
"""How long Redis may take to answer: above the second for which kombu's own blocking read waits.

With the pause after a failure and the dispatcher's tick it makes the 5 s within which a lost bell is rung again.
"""
HALF_OPEN_SECONDS: Final = 2
"""How long past its second kombu waits for the answer to a blocking read, before it takes the connection for dead.

Behind a NAT that forgot a connection nothing else ever ends the wait; kombu's own 25 s would be 26 s without a bell.
"""
WINDOW_PER_SLOT: Final = 2
HEADROOM: Final = 8
FRESH_SECONDS: Final = 0.25
TO_CLAIM: Final = timedelta(seconds=0.5)
"""By then a job whose bell was taken out of the queue has been claimed."""
OUT_OF_ORDER: Final = timedelta(seconds=1)
"""By how much bells may lie in the queue in another order than they were noted as rung: as long as a commit takes."""
NOT_SHOWN_FOR: Final = timedelta(seconds=5)

log = get_logger(__name__)


def create_celery(settings: Settings) -> Celery:
    """The Celery application of every process that rings the bell; who answers it calls `take_names` as well."""
    forget_celerys(os.environ)  # Celery would obey it before what follows, whatever it says
    # Decision 0003: a message in hand when the broker dies is not put back; kombu can end the worker by trying.
    RedisChannel.do_restore = False
    url, tls = _broker_url(settings.broker)
    app = Celery("backburner", broker=url, set_as_current=False)
    app.amqp.Connection = SteadyConnection
    app.conf.update(
        accept_content=["json"],
        broker_channel_error_retry=True,  # any error that the broker replies with: it is away, no worker ends of it
        broker_connection_max_retries=None,  # else a worker ends of a broker that is away for 100 s
        broker_connection_retry_on_startup=True,
        broker_connection_timeout=CONNECT_SECONDS,
        broker_pool_limit=None,
        broker_transport_options=_transport_options(settings),
        broker_use_ssl=tls,
        result_backend_thread_safe=True,  # there is none: else each task would make one of its own
        task_acks_late=False,
        task_create_missing_queues=False,
        task_ignore_result=True,
        task_store_errors_even_if_ignored=False,
        worker_consumer="worker.celery_adapter.consumer:SlotConsumer",
        worker_concurrency=settings.worker_concurrency + HEADROOM,
        worker_disable_prefetch=_holds_messages(settings.broker),
        worker_hijack_root_logger=False,
        worker_prefetch_multiplier=1,
    )
    return app


def take_names(app: Celery, names: Names) -> None:
    """Let a worker or Flower listen to this installation alone: its queues, its control exchange, its events."""
    queues = {EXECUTE: queue_of(names.calls), DELIVER: queue_of(names.deliveries)}
    app.conf.update(
        control_exchange=names.control,
        event_exchange=names.events,
        event_queue_prefix=names.events,
        task_default_queue=names.calls,
        task_queues=[*queues.values()],
        task_routes={task: {"queue": queue.name} for task, queue in queues.items()},
    )


def queue_of(name: str) -> Queue:
    """The broker's queue of this name.

    Webhook deliveries have one of their own, so that neither they nor the calls wait behind the other's bells.
    """
    return Queue(name, Exchange(name, type="direct"), routing_key=name)


def _broker_url(url: str) -> tuple[str, dict[str, Any] | bool]:
    """The URL that Celery is given, and how TLS is spoken."""
    if is_amqps(url):
        return without_tls_options(url), tls_of_amqps(url)
    return for_kombu(url), tls_of(url) if _holds_messages(url) else False


def _holds_messages(url: str) -> bool:
    """Whether bells wait in this broker until a slot is free; any other hands them out as they come."""
    return url.startswith(("redis", "sentinel", "unix"))


def _transport_options(settings: Settings) -> dict[str, Any]:
    if not _holds_messages(settings.broker):
        return settings.broker_transport
    of_sentinels = Sentinels.from_url(settings.broker).kombu_options if is_sentinel(settings.broker) else {}
    return {
        "ack_emulation": False,  # a bell that is lost with its worker is rung again, long before it would be put back
        "max_connections": settings.worker_concurrency + 100,
        "socket_connect_timeout": CONNECT_SECONDS,
        "socket_timeout": ANSWER_SECONDS,
        "socket_keepalive": True,
        "health_check_interval": HALF_OPEN_SECONDS,
        **of_sentinels,
        **settings.broker_transport,
    }


class TaskQueue:
    """Rings the bell for jobs whose rows are committed."""

    def __init__(self, app: Celery, names: GetNames) -> None:
        self._app = app
        self._names = names
        self._holds_messages = _holds_messages(app.conf.broker_url)
        self._line = BrokerConnection(app, keep=self._holds_messages)

    def enqueue(self, job_id: str) -> bool:
        """Tell a worker that a job is due. False when the broker could not be told: the dispatcher rings again.

        After a failure the broker is left alone for a second, so that a dead one does not slow every caller down.
        """
        return self.enqueue_all([job_id]) == 1

    def enqueue_all(self, job_ids: Sequence[str]) -> int:
        """Ring for several jobs in one go; how many bells were heard, all or, as far as anyone knows, none."""
        return self._enqueue(EXECUTE, lambda names: names.calls, job_ids)

    def enqueue_deliveries(self, delivery_ids: Sequence[str]) -> int:
        """Tell the workers that webhook deliveries are due, likewise."""
        return self._enqueue(DELIVER, lambda names: names.deliveries, delivery_ids)

    def _enqueue(self, task: str, of: Callable[[Names], str], ids: Sequence[str]) -> int:
        if not ids:
            return 0

        def enqueue(connection: Connection, queue: Queue) -> None:
            declare: Sequence[Queue] | None = None  # Celery's default, the queue
            producer = self._app.amqp.Producer(connection)
            with producer.batch():
                for each in ids:
                    options = {"queue": queue, "retry": False, "declare": declare}
                    self._app.amqp.send_task_message(producer, task, _message(task, each), **options)
                    declare = ()  # the first has declared it for all

        try:
            queue = queue_of(of(self._names()))  # not on the line: nobody is to wait there for a database
            self._line.use(lambda connection: enqueue(connection, queue))
        except (BrokerAway, SQLAlchemyError) as away:
            if (cause := away.__cause__) is not None:
                log.warning(
                    "messages not enqueued", task=task, first=ids[0], messages=len(ids), error=type(cause).__name__
                )
            return 0
        return len(ids)

    def depth(self) -> int | None:
        """How many bells for jobs wait in the broker's queue; None when the broker does not answer."""
        return self._depth(lambda: self._names().calls)

    def next_message(self) -> str | None:
        """For which job the bell rings that is taken next: see `next_in`; None as well while the broker is away."""
        return self._next(lambda: self._names().calls)

    def next_delivery(self) -> str | None:
        """For which webhook delivery, likewise."""
        return self._next(lambda: self._names().deliveries)

    def _next(self, queue: Callable[[], str]) -> str | None:
        try:
            name = queue()
            return self._line.use(lambda connection: next_in(connection, name))
        except (BrokerAway, SQLAlchemyError):  # whoever has just asked for the depth has said so
            return None

    def why_away(self, names: Names | None) -> str | None:
        """Why the broker takes no messages; None if it took a small write just now, and the queue of jobs is one.

        The database is not asked for the names, should they not be known yet.
        """
        names = names or Names("backburner")

        def attempt(connection: Connection) -> None:
            try_write(connection, names.probe)
            queue_length(connection, names.calls)

        try:
            self._line.use(attempt)
        except BrokerAway as away:
            if away.__cause__ is not None:
                log.warning("broker takes no messages", reason=str(away))
            return str(away)
        return None

    def depth_of_deliveries(self) -> int | None:
        """How many bells for webhook deliveries do, likewise."""
        return self._depth(lambda: self._names().deliveries)

    def _depth(self, queue: Callable[[], str]) -> int | None:
        try:
            name = queue()
            return self._line.use(lambda connection: queue_length(connection, name))
        except (BrokerAway, SQLAlchemyError) as away:
            if away.__cause__ is not None:
                log.warning("broker does not answer", error=type(away.__cause__).__name__)
            return None

    def room(
        self,
        tx: DatabaseConnection,
        provider_limit: ProviderLimitSettings,
        current: ProviderLimit,
        *,
        depth: int,
        slots: int,
        now: datetime,
    ) -> int:
        """How many bells may be rung now, `depth` of them waiting already: what fits the window and the lane."""
        if current.paused_at is not None:
            return 0 if current.is_shut(now) or depth else 1
        limit = provider_limit.limit(current)
        if limit is None and self._holds_messages:
            return max(0, window_size(slots) - depth)
        out = calls_out(tx)
        window = window_size(slots) if self._holds_messages else slots - out
        return max(0, min(window, slots if limit is None else limit - out) - depth)

    def close(self) -> None:
        """Let go of the broker's connections."""
        self._line.close()
        self._app.close()


def _message(task: str, job_or_delivery_id: str) -> task_message:
    """What Celery's protocol asks for; what `send_task` adds to it, a worker would hold for as long as each call takes.

    Source: https://docs.celeryq.dev/en/stable/internals/protocol.html#version-2
    """
    args = (job_or_delivery_id,)
    headers = {"lang": "py", "task": task, "id": job_or_delivery_id, "argsrepr": repr(args), **_NO_OPTIONS}
    return task_message(headers, {"correlation_id": job_or_delivery_id}, (args, {}, _NOTHING_FOLLOWS), sent_event=None)


_NO_OPTIONS: Final = {"ignore_result": True, "eta": None, "expires": None, "retries": 0}
_NOTHING_FOLLOWS: Final = dict.fromkeys(("callbacks", "errbacks", "chain", "chord"))


class QueueCapacity:
    """Whether the broker's queue has room for one more bell; the backlog itself stays in SQL.

    The window is a small multiple of the live workers' slots. Both it and the depth are looked up by `look`, which
    asks database and broker; to take places asks nobody.
    """

    def __init__(
        self,
        database: Database,
        task_queue: TaskQueue,
        provider_limit: ProviderLimitSettings,
        worker_timeout: timedelta,
    ) -> None:
        self._database = database
        self._task_queue = task_queue
        self._provider_limit = provider_limit
        self._worker_timeout = worker_timeout
        self._room = 0
        self._looked_at = float("-inf")

    @property
    def is_stale(self) -> bool:
        """Whether the last look is too long ago to go by."""
        return monotonic() - self._looked_at > FRESH_SECONDS

    def look(self) -> None:
        """Look how many places there are."""
        self._looked_at = monotonic()
        self._room = 0  # a broker that hangs meanwhile is rung by nobody
        self._room = self.room()

    def reserve(self, wanted: int) -> int:
        """Take so many of the places left, or as many as there are; two at once may take the same ones."""
        taken = max(0, min(wanted, self._room))
        self._room -= taken
        return taken

    def room(self) -> int:
        """How many bells may be rung now; 0 when the broker is away."""
        depth = self._task_queue.depth()
        if depth is None:
            return 0
        with self._database.read(within=READ_SECONDS) as tx:
            now = database_now(tx)
            slots = live_slots(tx, now, self._worker_timeout)
            current = read_provider_limit(tx, self._provider_limit.name)
            return self._task_queue.room(tx, self._provider_limit, current, depth=depth, slots=slots, now=now)


def window_size(slots: int) -> int:
    """How many bells may wait at once, for so many slots of live workers."""
    return WINDOW_PER_SLOT * slots


class LostMessages:
    """Which bells count as lost, so that they are rung again: those of queued jobs that the broker's queue lacks.

    A queue hands out its oldest message first. So whatever was rung before the message that is next is out of it: a
    worker is about to claim the job, or the bell was lost. What was out of it half a second ago and is still queued was
    lost. Redis shows the message that is next; of any other broker's bells all count that have waited long enough.
    """

    def __init__(self) -> None:
        self._seen_at = float("-inf")
        self._out = self._lost = _LONG_AGO

    def enqueued_before(
        self, depth: int, now: datetime, *, is_shown: bool, next_enqueued_at: datetime | None
    ) -> datetime:
        """Bells rung before this moment, for jobs still queued, count as lost; `depth` of them wait in the queue.

        `next_enqueued_at` is when the bell that is next was rung, if that is known and its job still queued.
        """
        if depth == 0:  # there is nothing left to wait for
            return now - TO_CLAIM
        if not is_shown:
            return now - NOT_SHOWN_FOR
        if next_enqueued_at is not None and monotonic() - self._seen_at >= TO_CLAIM.total_seconds():
            self._lost = self._out
            self._seen_at, self._out = monotonic(), next_enqueued_at - OUT_OF_ORDER
        return min(self._lost, now - TO_CLAIM)


_LONG_AGO: Final = datetime.fromtimestamp(0, UTC)
