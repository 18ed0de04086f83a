"""The queues that this worker consumes, for its heartbeat.

A process that is alive but takes no messages must not count as a worker.
"""

from datetime import timedelta
from time import monotonic
from typing import Any, Final

from jobs.broker_names import Names
from jobs.store.workers import CALLS, DELIVERIES

SILENT_AFTER: Final = 5.0
"""Seconds without a reply of the broker, after which the consumer no longer counts as subscribed."""
REPLY_SECONDS: Final = 3.0
"""Greatest age of a blocking read of Redis, which ends by itself after a second."""


class SubscribedQueues:
    """The queues that the consumer is subscribed to, and when it last took a message."""

    def __init__(self, names: Names) -> None:
        self._names = {CALLS: names.calls, DELIVERIES: names.deliveries}
        self._consumer: Any = None
        self._replied_at = float("-inf")
        self._took_at: float | None = None

    def subscribed(self, consumer: Any) -> None:
        """Note that Celery's consumer is connected and subscribed to its queues."""
        self._consumer = consumer
        self._replied_at = monotonic()

    def polled(self, *, is_full: bool) -> None:
        """Note that the consumer has polled the broker once more. A full one sends the broker nothing."""
        if is_full or self._has_replied():
            self._replied_at = monotonic()

    def took_message(self) -> None:
        """Note that a message was taken."""
        self._took_at = monotonic()

    @property
    def took_ago(self) -> timedelta | None:
        """Time since a message was last taken. None if none ever was."""
        return None if self._took_at is None else timedelta(seconds=monotonic() - self._took_at)

    @property
    def queues(self) -> tuple[str, ...]:
        """Kinds of queues that are consumed now. Empty while the broker is away."""
        consumer = self._consumer
        tasks = getattr(consumer, "task_consumer", None)
        if not tasks or not consumer.connection or monotonic() - self._replied_at > SILENT_AFTER:
            return ()
        return tuple(kind for kind, name in self._names.items() if tasks.consuming_from(name))

    def _has_replied(self) -> bool:
        """Return whether the broker has replied lately. Clients of all brokers but Redis notice that by themselves."""
        tasks = getattr(self._consumer, "task_consumer", None)
        if not tasks:
            return False
        channel = tasks.channel
        sent_at: float | None = getattr(channel, "_brpop_sent_at", None)
        return sent_at is None or monotonic() - sent_at < REPLY_SECONDS
