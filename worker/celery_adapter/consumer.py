"""Lets Celery's consumer fetch the next bell as soon as a slot is free, and leave as soon as it is to stop.

While all slots are taken it leaves the bells in the broker (decision 0003). But it looks for a free slot, and whether
it is to stop, only before it listens to the broker, and listens for two seconds: so long would a slot that has come
free stay empty, and twice as long would a worker that is told to stop go on.

It also survives whatever else stands in the queue: Celery takes a message that is malformed enough for a defect of its
own, and ends the worker.
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

TURN_SECONDS: Final = 0.25
"""How long a consumer listens, or waits for a slot, before it does the other and looks whether it is to stop."""
LOOK_SECONDS: Final = 0.01
REFUSED_SECONDS: Final = 1.0

log = get_logger(__name__)


class SlotConsumer(Consumer):  # type: ignore[misc]  # Celery has no types
    """Celery's consumer, which takes an error that the broker replies with for a lost connection, and waits a second.

    The server may have become a replica, or a key of the queue's name may have another type: both can be mended, and no
    worker is to end or to spin meanwhile.
    """

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Let go of the connection; Celery makes another."""
        super().on_connection_error_after_connected(exc)
        if isinstance(exc, self.channel_errors):
            log.warning("broker refuses to hand out messages", error=str(exc))
            sleep(REFUSED_SECONDS)


class FreeSlots:
    """Tells the consumer of this process that a slot has come free."""

    def __init__(self, hearing: SubscribedQueues, on_listening: Callable[[], None]) -> None:
        """`on_listening` is called whenever the consumer has begun to listen to the broker."""
        self._freed = Event()
        self._hearing = hearing
        self._on_listening = on_listening

    def freed(self) -> None:
        """A bell has been answered."""
        self._freed.set()

    def install(self, app: Celery) -> None:
        """Tie it to every connection that the consumer opens."""
        slots = self

        class SlotsStep(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery has no types
            requires = ("celery.worker.consumer.tasks:Tasks",)

            def start(self, consumer: Any) -> None:
                connection = consumer.connection
                listen = _surviving(connection.drain_events)
                connection.drain_events = slots.listening(listen, lambda: _is_full(consumer))
                slots.begin(consumer)

        app.steps["consumer"].add(SlotsStep)

    def begin(self, consumer: Any) -> None:
        """The consumer listens from now on."""
        self._hearing.listens(consumer)
        self._on_listening()

    def listening(self, listen: Callable[..., Any], is_full: Callable[[], bool]) -> Callable[..., Any]:
        """`listen`, which takes a `timeout`, but never for long; least so with no slot free, or when it is to stop."""

        def listen_for_slots(timeout: float) -> Any:
            try:
                return wait_and_listen(timeout)
            finally:  # that nothing came is an exception too
                self._hearing.went_round(is_full=is_full())

        def wait_and_listen(timeout: float) -> Any:
            until = monotonic() + TURN_SECONDS
            self._freed.clear()
            while is_full():
                left = until - monotonic()
                if left <= 0:
                    return listen(timeout=LOOK_SECONDS)
                self._freed.wait(left)
                self._freed.clear()
            return listen(timeout=LOOK_SECONDS if state.should_stop is not None else min(timeout, TURN_SECONDS))

        return listen_for_slots


def _surviving(listen: Callable[..., Any]) -> Callable[..., Any]:
    """`listen`, but a malformed message is logged and dropped."""

    def listen_on(timeout: float) -> Any:
        try:
            return listen(timeout=timeout)
        except MALFORMED as error:
            log.warning("malformed message dropped", error=type(error).__name__)
            sleep(LOOK_SECONDS)  # should it be a defect after all, it does not take the whole processor
            return None

    return listen_on


def _is_full(consumer: Any) -> bool:
    """Whether bells are to be left in the broker."""
    holds_messages = bool(consumer.app.conf.worker_disable_prefetch)
    return holds_messages and len(state.reserved_requests) >= consumer.controller.max_concurrency
