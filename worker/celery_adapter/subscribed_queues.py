"""What this worker listens to, for its heartbeat: a process that lives but takes nothing must not count as a worker."""

from datetime import timedelta
from time import monotonic
from typing import Any, Final

from jobs.broker_names import Names
from jobs.store.workers import CALLS, DELIVERIES

DEAF_AFTER: Final = 5.0
"""Seconds without a sign of the broker, after which the consumer no longer counts as listening."""
ANSWER_SECONDS: Final = 3.0
"""How old a blocking read of Redis may be; it ends after a second by itself."""


class SubscribedQueues:
    """The queues that the consumer listens to, and when it last took a message from one."""

    def __init__(self, names: Names) -> None:
        self._names = {CALLS: names.calls, DELIVERIES: names.deliveries}
        self._consumer: Any = None
        self._heard_at = float("-inf")
        self._took_at: float | None = None

    def listens(self, consumer: Any) -> None:
        """Celery's consumer has a connection and has told the broker which queues it wants."""
        self._consumer = consumer
        self._heard_at = monotonic()

    def went_round(self, *, is_full: bool) -> None:
        """The consumer has listened once more; a full one asks the broker nothing."""
        if is_full or self._is_answered():
            self._heard_at = monotonic()

    def took(self) -> None:
        """A message was taken."""
        self._took_at = monotonic()

    @property
    def took_ago(self) -> timedelta | None:
        """How long ago; None if never."""
        return None if self._took_at is None else timedelta(seconds=monotonic() - self._took_at)

    @property
    def queues(self) -> tuple[str, ...]:
        """Which queues are listened to at this moment; none while the broker is away."""
        consumer = self._consumer
        listening = getattr(consumer, "task_consumer", None)
        if not listening or not consumer.connection or monotonic() - self._heard_at > DEAF_AFTER:
            return ()
        return tuple(kind for kind, name in self._names.items() if listening.consuming_from(name))

    def _is_answered(self) -> bool:
        """Whether the broker has answered lately. Any but Redis notices by itself that it does not."""
        listening = getattr(self._consumer, "task_consumer", None)
        if not listening:
            return False
        channel = listening.channel
        sent_at: float | None = getattr(channel, "_brpop_sent_at", None)
        return sent_at is None or monotonic() - sent_at < ANSWER_SECONDS
