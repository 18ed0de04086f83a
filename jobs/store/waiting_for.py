"""Says in words what a queued job waits for, so that an operator knows what to do.

Nothing here is another tenant's: the provider's state is the same for all.
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
class Awaited:
    """Where a job stands: its place among its key's own, if it is queued and due, and what it waits for."""

    queue_position: int | None = None
    waiting_for: str | None = None


class Awaiting:
    """What the jobs wait for that are looked at together; the provider's state is read once, if it is needed."""

    def __init__(self, tx: Connection, provider_limit: str, now: datetime) -> None:
        self._tx = tx
        self._name = provider_limit
        self._now = now
        self._provider_limit: ProviderLimit | None = None

    def of(self, job: Job) -> Awaited:
        """Of one of them."""
        if job.status is not Status.QUEUED:
            return Awaited()
        self._provider_limit = self._provider_limit or read_provider_limit(self._tx, self._name)
        return Awaited(queue_position(self._tx, job), waiting_for(job, self._provider_limit, self._now))


def waiting_for(job: Job, provider_limit: ProviderLimit, now: datetime) -> str | None:
    """What a job waits for; None if it is not queued."""
    match job:
        case Job(status=status) if status is not Status.QUEUED:
            words = None
        case Job(parked_until=datetime() as until):
            words = f"the provider's log, which may tell what became of the last call, until {_moment(until, now)}"
        case Job(blocked_by=str() as before):
            words = f"the end of {before}, which it follows"
        case Job(attempt=0) if job.available_at > now:
            words = f"run_at {job.available_at:%Y-%m-%dT%H:%M:%SZ}"
        case _ if provider_limit.paused_at is not None:
            words = state_of(provider_limit, now)
        case _ if job.available_at > now:
            words = _next_try(job, now)
        case _ if provider_limit.max_calls is not None:
            words = f"no free slot, as the provider takes no more than {provider_limit.max_calls} calls at once for now"
        case _:
            words = "no free slot"
    return words


def state_of(provider_limit: ProviderLimit, now: datetime) -> str | None:
    """Why a provider is paused, since when, and when it is tried again; None if it is not."""
    if provider_limit.paused_at is None or provider_limit.pause_kind is None:
        return None
    state = _STATES.get(provider_limit.pause_kind, f"provider is paused ({provider_limit.pause_kind})")
    because = "" if provider_limit.pause_reason is None else f" ({provider_limit.pause_reason})"
    probe_in = timedelta(0) if provider_limit.probe_at is None else provider_limit.probe_at - now
    return f"{state}{because} since {_moment(provider_limit.paused_at, now)}, {_in(probe_in)}"


def awaits_provider(job: Job, provider_limit: ProviderLimit, now: datetime) -> bool:
    """Whether a job waits for a provider that takes no call, or that took none of this job when it was last asked."""
    if job.status is not Status.QUEUED or job.parked_until is not None or job.blocked_by is not None:
        return False
    if job.attempt == 0 and job.available_at > now:
        return False
    return provider_limit.paused_at is not None or is_providers(job.error_kind)


def is_providers(kind: ErrorKind | None) -> bool:
    """Whether a call that ended so met a provider that takes none."""
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


def _moment(at: datetime, now: datetime) -> str:
    return f"{at:%H:%M} UTC" if now - at < timedelta(hours=12) else f"{at:%Y-%m-%d %H:%M} UTC"
