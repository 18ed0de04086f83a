"""The limit of concurrent calls to a provider over all processes: active, throttled or paused.

The limit is one row of the database, so it survives a flushed broker and all processes see the same. A claim reads it
by its key and locks nothing. Running calls are counted only while there is a limit, and never beyond it. Two claims at
the same time may exceed the limit by one, which does no harm, as it is itself an estimate from refused calls.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, bindparam, func, literal, or_, select, true, update
from sqlalchemy.dialects import postgresql, sqlite

from jobs import backoff, text_limits
from jobs.errors import ErrorKind
from jobs.retry import LONGEST_PAUSE_ASKED_FOR
from jobs.settings import Settings
from jobs.store import schema

THROTTLE_EVERY = timedelta(seconds=1)
RELAX_EVERY = timedelta(seconds=1)
QUIET = timedelta(seconds=60)
RELAX_EVERY_WHEN_QUIET = timedelta(seconds=5)
PROBE_TIMEOUT = timedelta(seconds=30)
UNBOUNDED = 1_000_000


@dataclass(frozen=True)
class ProviderLimit:
    """One row of `provider_limits`. A provider without a row is active and takes as many calls as there are slots.

    `max_calls` is set while the provider is throttled, `throttled_by` is the job whose refused call throttled it last.
    `pause_kind` and `pause_reason` give the reason for a pause. `probe_at` is the time of the next probe, `probes`
    their number since the pause began. The provider's log of calls is not read before `log_off_until`.
    """

    name: str
    max_calls: int | None = None
    throttled_at: datetime | None = None
    throttled_by: str | None = None
    relaxed_at: datetime | None = None
    paused_at: datetime | None = None
    pause_kind: ErrorKind | None = None
    pause_reason: str | None = None
    probe_at: datetime | None = None
    probes: int = 0
    log_off_until: datetime | None = None

    def has_log(self, now: datetime) -> bool:
        """Return whether the provider's log of calls may be readable."""
        return self.log_off_until is None or self.log_off_until <= now

    def refuses_all(self, now: datetime) -> bool:
        """Return whether the provider is paused and no probe is due yet."""
        return self.paused_at is not None and self.probe_at is not None and self.probe_at > now


@dataclass(frozen=True)
class ProviderLimitSettings:
    """The provider's name and the operator's limit of concurrent calls; None for as many as there are slots."""

    name: str
    most: int | None = None

    @classmethod
    def from_settings(cls, settings: Settings) -> "ProviderLimitSettings":
        """Return what the operator has set."""
        return cls(settings.provider_name, settings.provider_max_calls)

    def limit(self, provider_limit: ProviderLimit) -> int | None:
        """Return the lower of the operator's limit and the present one. None if there is no limit."""
        limits = [each for each in (self.most, provider_limit.max_calls) if each is not None]
        return min(limits, default=None)


def read_provider_limit(tx: Connection, name: str) -> ProviderLimit:
    """Return the present limit of the provider with this name."""
    found = tx.execute(_PROVIDER_LIMIT, {"of_name": name}).mappings().one_or_none()
    if found is None:
        return ProviderLimit(name)
    kind = found["pause_kind"]
    return ProviderLimit(**{**found, "pause_kind": None if kind is None else ErrorKind(kind)})


_PROVIDER_LIMIT: Final = select(schema.provider_limits).where(schema.provider_limits.c.name == bindparam("of_name"))


def running_calls(tx: Connection, at_most: int = UNBOUNDED) -> int:
    """Count the running calls, up to `at_most`."""
    held = select(literal(1)).select_from(schema.jobs).where(schema.IS_HELD).limit(at_most).subquery("held")
    return int(tx.execute(select(func.count()).select_from(held)).scalar_one())


def has_call_running_since(tx: Connection, before: datetime) -> bool:
    """Return whether a call is running that began before this time."""
    held = select(literal(1)).select_from(schema.jobs).where(schema.IS_HELD, schema.jobs.c.updated_at <= before)
    return tx.execute(held.limit(1)).first() is not None


def throttle(tx: Connection, name: str, job_id: str, now: datetime) -> int | None:
    """Limit the calls to half of those running, because the provider refused a job's call as one too many.

    No job throttles the provider twice in a row, because repeated refusals may be due to the job itself. Returns the
    new limit. None if it is not changed.
    """
    provider_limit = read_provider_limit(tx, name)
    if provider_limit.throttled_by == job_id:
        return None
    if provider_limit.throttled_at is not None and now - provider_limit.throttled_at < THROTTLE_EVERY:
        return None
    running = running_calls(tx)
    if running < 2:  # the limit cannot be below one; the job's own backoff spares the provider
        return None
    row = schema.provider_limits.c
    limit = running // 2
    due = or_(row.throttled_at.is_(None), row.throttled_at <= now - THROTTLE_EVERY)
    throttled = {"max_calls": limit, "throttled_at": now, "throttled_by": job_id, "relaxed_at": now}
    return limit if _change(tx, name, due, **throttled) else None


def relax(tx: Connection, name: str, now: datetime, slots: int, *, after: timedelta = RELAX_EVERY) -> bool:
    """Raise the limit by a tenth, at most once per `after`, because the provider accepts calls. True if raised.

    A limit of which less than half is used stays, as nothing shows that the provider would accept more. The limit is
    removed once it reaches `slots`.
    """
    provider_limit = read_provider_limit(tx, name)
    limit, relaxed_at = provider_limit.max_calls, provider_limit.relaxed_at
    if limit is None or relaxed_at is None or now - relaxed_at < after:
        return False
    if running_calls(tx, limit) * 2 < limit:
        return False
    wider = limit + max(1, limit // 10)
    same = schema.provider_limits.c.relaxed_at == relaxed_at
    return _change(tx, name, same, max_calls=wider if wider < slots else None, relaxed_at=now)


def relax_if_quiet(tx: Connection, provider_limit: ProviderLimit, now: datetime, slots: int) -> bool:
    """Raise a limit if no call was refused for `QUIET`. True if raised.

    Where calls take minutes, waiting for their success would take too long.
    """
    if (
        provider_limit.max_calls is None
        or provider_limit.throttled_at is None
        or now - provider_limit.throttled_at < QUIET
    ):
        return False
    return relax(tx, provider_limit.name, now, slots, after=RELAX_EVERY_WHEN_QUIET)


def pause(
    tx: Connection,
    name: str,
    kind: ErrorKind,
    started_at: datetime,
    now: datetime,
    *,
    because: str | None = None,
    pause: timedelta = timedelta(0),
) -> bool:
    """Pause a provider that accepts no calls, so that only probes are sent. True if it was not paused before.

    `started_at` is the start of the refused call, which was a probe if it began during the pause. `pause` is the
    shortest time before the next probe.
    """
    provider_limit = read_provider_limit(tx, name)
    row = schema.provider_limits.c
    pause = min(pause, LONGEST_PAUSE_ASKED_FOR)
    why = {"pause_kind": kind, "pause_reason": None if because is None else because[: text_limits.PAUSE_REASON]}
    if provider_limit.paused_at is None:
        return _change(tx, name, row.paused_at.is_(None), paused_at=now, probe_at=now + pause, probes=0, **why)
    if started_at > provider_limit.paused_at:
        pause = max(pause, backoff.PROBES.pause(provider_limit.probes))
        _change(tx, name, row.paused_at == provider_limit.paused_at, probe_at=now + pause, **why)
    return False


def take_probe(tx: Connection, provider_limit: ProviderLimit, now: datetime) -> bool:
    """Take the probe that is due; False if another was faster. The next one is due after `PROBE_TIMEOUT`."""
    row = schema.provider_limits.c
    probing = update(schema.provider_limits).where(
        row.name == provider_limit.name,
        row.paused_at == provider_limit.paused_at,
        row.probe_at == provider_limit.probe_at,
    )
    return tx.execute(probing.values(probe_at=now + PROBE_TIMEOUT, probes=row.probes + 1)).rowcount == 1


def probe_later(tx: Connection, name: str, started_at: datetime, now: datetime) -> None:
    """Schedule the next probe after one that was neither accepted nor refused."""
    provider_limit = read_provider_limit(tx, name)
    row = schema.provider_limits.c
    if provider_limit.paused_at is not None and provider_limit.paused_at < started_at:
        probe_at = now + backoff.PROBES.pause(provider_limit.probes)
        _change(tx, name, row.paused_at == provider_limit.paused_at, probe_at=probe_at)


def probe_now(tx: Connection, name: str, now: datetime) -> None:
    """Make a probe, and a look at the log of calls, due at once. A worker that starts may have another provider key."""
    row = schema.provider_limits.c
    tx.execute(update(schema.provider_limits).where(row.name == name, row.paused_at.is_not(None)).values(probe_at=now))
    tx.execute(update(schema.provider_limits).where(row.name == name).values(log_off_until=None))


def log_is_off(tx: Connection, name: str, until: datetime) -> None:
    """Record that the provider's log of calls cannot be read and need not be tried before `until`."""
    _change(tx, name, true(), log_off_until=until)


def resume(tx: Connection, name: str, started_at: datetime) -> bool:
    """End the pause if a call that began during it was accepted. True if it ended."""
    row = schema.provider_limits.c
    resuming = update(schema.provider_limits).where(row.name == name, row.paused_at < started_at)
    resuming = resuming.values(paused_at=None, pause_kind=None, pause_reason=None, probe_at=None)
    return tx.execute(resuming).rowcount == 1


def _change(tx: Connection, name: str, condition: Any, **values: Any) -> bool:
    dialect = sqlite if tx.dialect.name == "sqlite" else postgresql
    tx.execute(dialect.insert(schema.provider_limits).values(name=name, probes=0).on_conflict_do_nothing())
    changing = update(schema.provider_limits).where(schema.provider_limits.c.name == name, condition)
    return tx.execute(changing.values(values)).rowcount == 1
