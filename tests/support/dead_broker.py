"""A broker that takes no message and a notifier that publishes nothing. Both record their calls."""

from collections.abc import Callable, Sequence

from jobs.broker_names import Names
from jobs.notifications import Notifier
from jobs.task_queue import TaskQueue
from tests.support.names import NAMES


class DeadBroker(TaskQueue):
    def __init__(self) -> None:
        self.enqueued: list[str] = []

    def depth(self) -> None:
        return None

    def enqueue(self, job_ids: Sequence[str]) -> int:
        self.enqueued += job_ids
        return 0


class FakeNotifier(Notifier):
    def __init__(self) -> None:
        self.said: list[str] = []
        self._on_end = lambda _delivery_ids: None

    def _publish(self, messages: Callable[[Names], Sequence[tuple[str, bytes]]]) -> None:
        self.said += [f"{channel} {message.decode()}" for channel, message in messages(NAMES)]
