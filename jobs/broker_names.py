"""The names of one installation's queues, exchanges and channels on a broker that it may share with others."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

TELLING: Final = 16


@dataclass(frozen=True)
class Names:
    """All of them begin with the installation's namespace, so that two installations never share one."""

    namespace: str

    @property
    def calls(self) -> str:
        """The queue of messages that a job is due."""
        return self.namespace

    @property
    def deliveries(self) -> str:
        """The queue of messages that a webhook delivery is due."""
        return f"{self.namespace}.deliveries"

    @property
    def trial(self) -> str:
        """The queue by which `backburner doctor` tries whether the broker takes messages and hands them out."""
        return f"{self.namespace}.trial"

    @property
    def probe(self) -> str:
        """The key by which `/readyz` tries whether the broker takes writes; gone at once."""
        return f"{self.namespace}.probe"

    @property
    def control(self) -> str:
        """The exchange of Celery's remote control, to which Celery appends `.pidbox`."""
        return self.namespace

    @property
    def events(self) -> str:
        """The exchange of Celery's events, which Flower reads."""
        return f"{self.namespace}.events"

    def of_job(self, job_id: str) -> str:
        """The channel on which it is published that this response, or test delivery, has ended or has more to show.

        The end of the id is random, and tells it from any other that somebody waits for at the same time.
        """
        return f"{self.namespace}:{job_id[-TELLING:]}"

    @property
    def ended(self) -> str:
        """The channel on which the release before this one publishes the ids of ended responses."""
        return f"{self.namespace}:ended"

    @property
    def wrote(self) -> str:
        """The channel on which it publishes the ids of streamed responses that have more to show."""
        return f"{self.namespace}:wrote"

    @property
    def stop(self) -> str:
        """The channel on which calls to be stopped are published."""
        return f"{self.namespace}:stop"

    @property
    def revoked(self) -> str:
        """The channel on which the ids of revoked API keys are published."""
        return f"{self.namespace}:revoked"


GetNames = Callable[[], Names]
"""Return the names. Raises `SQLAlchemyError` while the database that keeps the namespace does not answer."""
