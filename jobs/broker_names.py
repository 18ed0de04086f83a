"""Names of one installation's queues, exchanges and channels on a broker that it may share with others."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

ID_CHARACTERS: Final = 16


@dataclass(frozen=True)
class Names:
    """The names of one installation. All begin with its namespace, so that two installations never share one."""

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
        """The queue with which `backburner doctor` tests whether the broker delivers messages."""
        return f"{self.namespace}.trial"

    @property
    def probe(self) -> str:
        """The key with which `/readyz` tests whether the broker takes writes; deleted at once."""
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
        """Return the channel for notifications of this response or test delivery.

        Its name holds the end of the id, which is random and so differs from that of other ids in use.
        """
        return f"{self.namespace}:{job_id[-ID_CHARACTERS:]}"

    @property
    def ended(self) -> str:
        """The channel on which the previous release publishes the ids of ended responses."""
        return f"{self.namespace}:ended"

    @property
    def wrote(self) -> str:
        """The channel on which the previous release publishes the ids of responses with new events."""
        return f"{self.namespace}:wrote"

    @property
    def stop(self) -> str:
        """The channel of stop messages."""
        return f"{self.namespace}:stop"

    @property
    def revoked(self) -> str:
        """The channel of revoked API keys' ids."""
        return f"{self.namespace}:revoked"


GetNames = Callable[[], Names]
"""Return the names. Raises `SQLAlchemyError` if the database that holds the namespace does not answer."""
