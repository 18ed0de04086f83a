"""A plain model of a job and its calls, with which the store is compared."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from jobs.errors import ErrorKind
from jobs.store.account_refusals import ACCEPTED_AFTER
from worker.outcome import AFTER_A_PROBE

AGAIN = {
    ErrorKind.RATE_LIMITED: "counted",  # inside an answer
    ErrorKind.OVERLOADED: "outage",
    ErrorKind.BAD_CREDENTIALS: "uncounted",
    ErrorKind.INTERRUPTED: "if allowed",
    ErrorKind.REJECTED: "never",
}

ENDS = ["answer", "answer", "cut", "released", "stopped", ErrorKind.INTERRUPTED, *AGAIN]

SECOND = timedelta(seconds=1)
WAIT = 5 * SECOND


@dataclass
class ModelAttempt:
    worker: str
    started_at: datetime = field(compare=False)
    outcome: str | None = None
    cost: int = 0
    in_doubt: bool = False
    kind: ErrorKind | None = field(default=None, compare=False)
    is_logged: bool = field(default=False, compare=False)

    def ended(self, outcome: str, *, in_doubt: bool) -> None:
        """Set the outcome. It is not doubtful if the log has shown it."""
        self.outcome, self.in_doubt = outcome, in_doubt and not self.is_logged


@dataclass
class ModelJob:
    """The expected state of a job."""

    max_attempts: int
    repeats: bool
    available_at: datetime
    deadline_at: datetime
    status: str = "queued"
    failures: int = 0
    exists: bool = True
    parked_until: datetime | None = None
    started_at: datetime | None = None
    calls: list[ModelAttempt] = field(default_factory=list)

    @property
    def is_open(self) -> bool:
        return self.exists and self.status in ("queued", "in_progress")

    def holds(self, number: int) -> bool:
        """Return whether call `number` holds the job."""
        return self.exists and self.status == "in_progress" and number == len(self.calls)

    def is_parked_for(self, number: int) -> bool:
        return self.exists and self.parked_until is not None and number == len(self.calls)

    def ends(self, status: str) -> None:
        self.status, self.parked_until = status, None

    def failed(self, again: str, now: datetime, delay: Callable[[int], timedelta]) -> None:
        """Apply the retry policy to a failed call."""
        if again in {"uncounted", "outage"}:
            of_this_run = [call for call in self.calls if self.started_at and call.started_at >= self.started_at]
            overloaded = sum(call.kind is ErrorKind.OVERLOADED for call in of_this_run)
            pause = ACCEPTED_AFTER + AFTER_A_PROBE if again == "uncounted" else delay(overloaded)
            left = max(self.deadline_at - now, timedelta(0))
            self.status, self.parked_until = "queued", None
            self.available_at = now + (pause if pause < left else left / 2 if left >= 2 * SECOND else left)
            return
        if again == "if allowed" and not self.repeats and now < self.deadline_at:
            self.status, self.parked_until = "queued", self.parked_until or min(now + WAIT, self.deadline_at)
            return
        self.failures += 1
        refused = again == "never" or (again == "if allowed" and not self.repeats)
        if refused or self.failures >= self.max_attempts:
            self.ends("failed")
        else:
            self._queue(now + delay(self.failures))

    def _queue(self, available_at: datetime) -> None:
        if available_at >= self.deadline_at:
            self.ends("failed")
        else:
            self.status, self.available_at, self.parked_until = "queued", available_at, None
