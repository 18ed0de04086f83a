"""Lets Celery's consumer take the next message as soon as a slot is free, and stop as soon as it should.

While all slots are taken, the messages stay in the broker. But Celery looks for a free slot, and whether it should
stop, only before it polls the broker, which takes two seconds. A freed slot would stay empty for that long, and a
worker that is stopped would run on for twice as long.

The consumer also survives any other content of the queue. Celery takes a badly malformed message for a defect of its
own and ends the worker.
"""

from collections.abc import Callable
from threading import Event
from time import monotonic, sleep
from typing import Any, Final

from celery import Celery, bootsteps
from celery.worker import state
from celery.worker.consumer import Consumer

from jobs.broker_connection import MALFORMED
from jobs.telemetry import get_logger
from worker.celery_adapter.subscribed_queues import SubscribedQueues

POLL_SECONDS: Final = 0.25
"""Longest time to poll, or to wait for a slot, before the consumer does the other and checks whether to stop."""
SHORTEST_POLL_SECONDS: Final = 0.01
REFUSED_SECONDS: Final = 1.0

log = get_logger(__name__)


class SlotConsumer(Consumer):  # type: ignore[misc]  # Celery has no types
    """Celery's consumer, which treats an error reply of the broker as a lost connection and waits a second.

    The server may have become a replica, or a key with the queue's name may have another type. An operator can repair
    both, and until then the worker must neither end nor spin.
    """

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Drop the connection. Celery makes another."""
        super().on_connection_error_after_connected(exc)
        if isinstance(exc, self.channel_errors):
            log.warning("broker refuses to hand out messages", error=str(exc))
            sleep(REFUSED_SECONDS)


class FreeSlots:
    """Wakes the consumer of this process when a slot comes free."""

    def __init__(self, subscribed_queues: SubscribedQueues, on_subscribed: Callable[[], None]) -> None:
        """Create it. `on_subscribed` is called each time the consumer has begun to poll the broker."""
        self._freed = Event()
        self._subscribed_queues = subscribed_queues
        self._on_subscribed = on_subscribed

    def freed(self) -> None:
        """Note that a task has ended."""
        self._freed.set()

    def install(self, app: Celery) -> None:
        """Wrap every connection that the consumer opens."""
        slots = self

        class SlotsStep(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery has no types
            requires = ("celery.worker.consumer.tasks:Tasks",)

            def start(self, consumer: Any) -> None:
                connection = consumer.connection
                poll = _surviving(connection.drain_events)
                connection.drain_events = slots.polling(poll, lambda: _is_full(consumer))
                slots.begin(consumer)

        app.steps["consumer"].add(SlotsStep)

    def begin(self, consumer: Any) -> None:
        """Note that the consumer polls from now on."""
        self._subscribed_queues.subscribed(consumer)
        self._on_subscribed()

    def polling(self, poll: Callable[..., Any], is_full: Callable[[], bool]) -> Callable[..., Any]:
        """Return `poll`, which takes a `timeout`, so that it never blocks for long.

        It is shortest while no slot is free or the consumer should stop.
        """

        def poll_for_slots(timeout: float) -> Any:
            try:
                return wait_and_poll(timeout)
            finally:  # an empty queue is an exception too
                self._subscribed_queues.polled(is_full=is_full())

        def wait_and_poll(timeout: float) -> Any:
            until = monotonic() + POLL_SECONDS
            self._freed.clear()
            while is_full():
                left = until - monotonic()
                if left <= 0:
                    return poll(timeout=SHORTEST_POLL_SECONDS)
                self._freed.wait(left)
                self._freed.clear()
            return poll(timeout=SHORTEST_POLL_SECONDS if state.should_stop is not None else min(timeout, POLL_SECONDS))

        return poll_for_slots


def _surviving(poll: Callable[..., Any]) -> Callable[..., Any]:
    """Return `poll`, which logs and drops malformed messages."""

    def poll_on(timeout: float) -> Any:
        try:
            return poll(timeout=timeout)
        except MALFORMED as error:
            log.warning("malformed message dropped", error=type(error).__name__)
            sleep(SHORTEST_POLL_SECONDS)  # if it is a defect after all, it does not take the whole processor
            return None

    return poll_on


def _is_full(consumer: Any) -> bool:
    """Return whether messages should stay in the broker."""
    holds_messages = bool(consumer.app.conf.worker_disable_prefetch)
    return holds_messages and len(state.reserved_requests) >= consumer.controller.max_concurrency
