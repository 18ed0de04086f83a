"""A bell and a channel that nobody hears: the rows alone must do. What was said is kept."""

from jobs.dispatch import Dispatcher
from jobs.events import Announcer


class DeafBroker(Dispatcher):
    def __init__(self) -> None:
        self.rung: list[str] = []

    def ring(self, job_id: str) -> bool:
        self.rung.append(job_id)
        return False


class DeafChannel(Announcer):
    def __init__(self) -> None:
        self.said: list[str] = []

    def _publish(self, channel: str, *messages: str) -> None:
        self.said += [f"{channel} {message}" for message in messages]
