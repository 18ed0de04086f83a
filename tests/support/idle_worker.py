"""A bell and a channel that nobody hears: the rows alone must do. What was said is kept."""

from collections.abc import Callable, Sequence

from jobs.broker_names import Names
from jobs.notifications import Announcer
from jobs.task_queue import Dispatcher
from tests.support.names import NAMES


class DeafBroker(Dispatcher):
    def __init__(self) -> None:
        self.rung: list[str] = []

    def depth(self) -> None:
        return None

    def ring_all(self, job_ids: Sequence[str]) -> int:
        self.rung += job_ids
        return 0


class DeafChannel(Announcer):
    def __init__(self) -> None:
        self.said: list[str] = []
        self._on_end = lambda _job_ids, _deliveries: None

    def _publish(self, messages: Callable[[Names], Sequence[tuple[str, bytes]]]) -> None:
        self.said += [f"{channel} {message.decode()}" for channel, message in messages(NAMES)]
