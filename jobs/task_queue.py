"""Celery messages that say that a job or a webhook delivery is due. A message holds its id and nothing else.

A message may be lost, doubled or late, because the row is the job. So `enqueue` never raises, and Celery neither
retries nor keeps results.
"""

from collections.abc import Callable, Sequence
from typing import Final

from celery import Celery
from celery.app.amqp import task_message
from kombu.connection import Connection
from kombu.entity import Queue
from sqlalchemy.exc import SQLAlchemyError

from jobs.broker_connection import BrokerConnection, BrokerUnavailable, next_id, queue_length, try_write
from jobs.broker_names import GetNames, Names
from jobs.celery_app import DELIVER, EXECUTE, holds_messages, queue_named
from jobs.telemetry import get_logger

log = get_logger(__name__)


class TaskQueue:
    """The broker's queues of jobs and of webhook deliveries.

    After a failure the broker is not asked for a second, so that a dead one does not delay every caller.
    """

    def __init__(self, app: Celery, names: GetNames) -> None:
        self._app = app
        self._names = names
        self.holds_messages: Final = holds_messages(app.conf.broker_url)
        self._connection = BrokerConnection(app, keep=self.holds_messages)

    def enqueue(self, job_ids: Sequence[str]) -> int:
        """Send a message for each job; the rows must be committed. Never raises.

        Returns the number of messages sent: all, or 0 if the broker failed. The enqueuer sends lost ones again.
        """
        return self._enqueue(EXECUTE, _calls, job_ids)

    def enqueue_deliveries(self, delivery_ids: Sequence[str]) -> int:
        """Send a message for each webhook delivery; otherwise as `enqueue`."""
        return self._enqueue(DELIVER, _deliveries, delivery_ids)

    def depth(self) -> int | None:
        """Return the number of messages in the queue of jobs; None if the broker is unavailable."""
        return self._depth(_calls)

    def delivery_depth(self) -> int | None:
        """Return the number of messages in the queue of deliveries; None if the broker is unavailable."""
        return self._depth(_deliveries)

    def next_job_id(self) -> str | None:
        """Return the job in the message that is taken next: see `next_id`; None if the broker is unavailable."""
        return self._next_id(_calls)

    def next_delivery_id(self) -> str | None:
        """Return the webhook delivery in the message that is taken next; otherwise as `next_job_id`."""
        return self._next_id(_deliveries)

    def unavailable_reason(self, names: Names | None) -> str | None:
        """Return the reason why the broker takes no messages; None if it has just taken a small write.

        `names` are None while the database has not been asked for them. The database is not asked here.
        """
        names = names or Names("backburner")

        def attempt(connection: Connection) -> None:
            try_write(connection, names.probe)
            queue_length(connection, names.calls)

        try:
            self._connection.use(attempt)
        except BrokerUnavailable as error:
            if error.__cause__ is not None:
                log.warning("broker takes no messages", reason=str(error))
            return str(error)
        return None

    def close(self) -> None:
        """Close the connections to the broker."""
        self._connection.close()
        self._app.close()

    def _enqueue(self, task: str, queue_of: Callable[[Names], str], ids: Sequence[str]) -> int:
        if not ids:
            return 0

        def send(connection: Connection, queue: Queue) -> None:
            declare: Sequence[Queue] | None = None  # Celery's default, the queue
            producer = self._app.amqp.Producer(connection)
            with producer.batch():
                for each in ids:
                    options = {"queue": queue, "retry": False, "declare": declare}
                    self._app.amqp.send_task_message(producer, task, _message(task, each), **options)
                    declare = ()  # the first message has declared it

        try:
            queue = queue_named(queue_of(self._names()))  # may ask the database, so not while we hold the connection
            self._connection.use(lambda connection: send(connection, queue))
        except (BrokerUnavailable, SQLAlchemyError) as error:
            if (cause := error.__cause__) is not None:
                log.warning(
                    "messages not enqueued", task=task, first=ids[0], messages=len(ids), error=type(cause).__name__
                )
            return 0
        return len(ids)

    def _depth(self, queue_of: Callable[[Names], str]) -> int | None:
        try:
            name = queue_of(self._names())
            return self._connection.use(lambda connection: queue_length(connection, name))
        except (BrokerUnavailable, SQLAlchemyError) as error:
            if error.__cause__ is not None:
                log.warning("broker does not answer", error=type(error.__cause__).__name__)
            return None

    def _next_id(self, queue_of: Callable[[Names], str]) -> str | None:
        try:
            name = queue_of(self._names())
            return self._connection.use(lambda connection: next_id(connection, name))
        except (BrokerUnavailable, SQLAlchemyError):  # callers ask for the depth first, which logs it
            return None


def _calls(names: Names) -> str:
    return names.calls


def _deliveries(names: Names) -> str:
    return names.deliveries


def _message(task: str, job_or_delivery_id: str) -> task_message:
    """Return only what Celery's protocol requires. A worker would hold what `send_task` adds for the whole call.

    Source: https://docs.celeryq.dev/en/stable/internals/protocol.html#version-2
    """
    args = (job_or_delivery_id,)
    headers = {"lang": "py", "task": task, "id": job_or_delivery_id, "argsrepr": repr(args), **_NO_OPTIONS}
    return task_message(headers, {"correlation_id": job_or_delivery_id}, (args, {}, _NO_FOLLOW_UPS), sent_event=None)


_NO_OPTIONS: Final = {"ignore_result": True, "eta": None, "expires": None, "retries": 0}
_NO_FOLLOW_UPS: Final = dict.fromkeys(("callbacks", "errbacks", "chain", "chord"))
