"""State in words why a queued job waits, so that an operator knows what to do.

The text shows nothing of other tenants, as the provider's state is the same for all.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Final

from sqlalchemy import Connection

from jobs.errors import OUTAGE_KINDS, ErrorKind
from jobs.job import Job
from jobs.lifecycle import Status
from jobs.store.account_refusals import REFUSALS
from jobs.store.provider_limits import ProviderLimit, read_provider_limit
from jobs.store.responses import queue_position

_STATES: Final[Mapping[ErrorKind, str]] = MappingProxyType(
    {
        ErrorKind.UNREACHABLE: "provider unreachable",
        ErrorKind.RATE_LIMITED: "provider takes no more calls",
        ErrorKind.OVERLOADED: "provider is overloaded",
        ErrorKind.BAD_CREDENTIALS: "provider refuses this server's key",
        ErrorKind.OUT_OF_CREDIT: "provider says that this server's account has no credit",
    }
)


@dataclass(frozen=True)
class WaitState:
    """A job's position among the due jobs of its key, if it is due, and the reason why it waits, if it is queued."""

    queue_position: int | None = None
    waiting_for: str | None = None


class WaitStateReader:
    """Read the wait states of several jobs in one transaction. The provider's state is read once, if needed."""

    def __init__(self, tx: Connection, provider_limit: str, now: datetime) -> None:
        self._tx = tx
        self._name = provider_limit
        self._now = now
        self._provider_limit: ProviderLimit | None = None

    def of(self, job: Job) -> WaitState:
        """Return the wait state of one job."""
        if job.status is not Status.QUEUED:
            return WaitState()
        self._provider_limit = self._provider_limit or read_provider_limit(self._tx, self._name)
        return WaitState(queue_position(self._tx, job), waiting_for(job, self._provider_limit, self._now))


def waiting_for(job: Job, provider_limit: ProviderLimit, now: datetime) -> str | None:
    """Return the reason why a job waits. None if it is not queued."""
    match job:
        case Job(status=status) if status is not Status.QUEUED:
            words = None
        case Job(parked_until=datetime() as until):
            words = f"the provider's log, which may show what became of the last call, until {_time(until, now)}"
        case Job(blocked_by=str() as previous):
            words = f"the end of {previous}, which it follows"
        case Job(attempt=0) if job.available_at > now:
            words = f"run_at {job.available_at:%Y-%m-%dT%H:%M:%SZ}"
        case _ if provider_limit.paused_at is not None:
            words = state_of(provider_limit, now)
        case _ if job.available_at > now or is_refusal_or_outage(job.error_kind):
            words = _next_try(job, now)
        case _ if provider_limit.max_calls is not None:
            words = f"no free slot, as the provider takes no more than {provider_limit.max_calls} calls at once for now"
        case _:
            words = "no free slot"
    return words


def state_of(provider_limit: ProviderLimit, now: datetime) -> str | None:
    """Return why and since when a provider is paused and when it is tried again. None if it is not paused."""
    if provider_limit.paused_at is None or provider_limit.pause_kind is None:
        return None
    state = _STATES.get(provider_limit.pause_kind, f"provider is paused ({provider_limit.pause_kind})")
    because = "" if provider_limit.pause_reason is None else f" ({provider_limit.pause_reason})"
    probe_in = timedelta(0) if provider_limit.probe_at is None else provider_limit.probe_at - now
    return f"{state}{because} since {_time(provider_limit.paused_at, now)}, {_in(probe_in)}"


def awaits_provider(job: Job, provider_limit: ProviderLimit, now: datetime) -> bool:
    """Return whether a queued job waits because the provider is paused, or did not accept the job's last call."""
    if job.status is not Status.QUEUED or job.parked_until is not None or job.blocked_by is not None:
        return False
    if job.attempt == 0 and job.available_at > now:
        return False
    return provider_limit.paused_at is not None or is_refusal_or_outage(job.error_kind)


def is_refusal_or_outage(kind: ErrorKind | None) -> bool:
    """Return whether this kind means that the provider accepts no calls."""
    return kind in OUTAGE_KINDS or kind in REFUSALS


def _next_try(job: Job, now: datetime) -> str:
    soon = _in(job.available_at - now)
    if job.error_kind is None:
        return soon
    status = None if job.error_http_status is None else f"HTTP {job.error_http_status}"
    state = _STATES.get(job.error_kind)
    if state is None:
        return f"the last call failed ({status or job.error_kind}), {soon}"
    return f"{state}, {soon}" if status is None else f"{state} ({status}), {soon}"


def _in(span: timedelta) -> str:
    seconds = round(span.total_seconds())
    return f"next try in {seconds} s" if seconds > 0 else "next try now"


def _time(at: datetime, now: datetime) -> str:
    return f"{at:%H:%M} UTC" if now - at < timedelta(hours=12) else f"{at:%Y-%m-%d %H:%M} UTC"
