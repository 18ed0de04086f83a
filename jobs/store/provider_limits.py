"""The lane to a provider: how many calls may be out at once over all processes, and whether any may go out at all.

One small row, so that it survives a flushed broker and every process sees the same. A claim reads it by its key and
locks nothing; the calls out are counted only while there is a limit, and never beyond it. So two claims at the same
moment may overshoot a limit by one; a limit found by being refused is no sharper than that.
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
    """One row of `lanes`; a lane without a row is open and as wide as there are slots.

    `throttled_by` is the job whose refusal narrowed it last; `pause_kind` and `pause_reason` say why it is closed,
    `probe_at` when the next job may try it, `probes` how many have since it was closed; `log_off_until` when to try
    again to read the provider's own log of calls.
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
        """Whether the provider's own log of calls can be read, for all we know."""
        return self.log_off_until is None or self.log_off_until <= now

    def is_shut(self, now: datetime) -> bool:
        """Whether not even a probe may go out."""
        return self.paused_at is not None and self.probe_at is not None and self.probe_at > now


@dataclass(frozen=True)
class ProviderLimitSettings:
    """Which lane, and how many calls the operator lets out at once (None: as many as there are slots)."""

    name: str
    most: int | None = None

    @classmethod
    def from_settings(cls, settings: Settings) -> "ProviderLimitSettings":
        """The operator's."""
        return cls(settings.provider_name, settings.provider_max_calls)

    def limit(self, provider_limit: ProviderLimit) -> int | None:
        """How many calls may be out at once, if that is limited at all."""
        limits = [each for each in (self.most, provider_limit.max_calls) if each is not None]
        return min(limits, default=None)


def read_provider_limit(tx: Connection, name: str) -> ProviderLimit:
    """The lane as it is now."""
    found = tx.execute(_PROVIDER_LIMIT, {"of_name": name}).mappings().one_or_none()
    if found is None:
        return ProviderLimit(name)
    kind = found["pause_kind"]
    return ProviderLimit(**{**found, "pause_kind": None if kind is None else ErrorKind(kind)})


_PROVIDER_LIMIT: Final = select(schema.provider_limits).where(schema.provider_limits.c.name == bindparam("of_name"))


def calls_out(tx: Connection, at_most: int = UNBOUNDED) -> int:
    """How many calls are out, counted no further than `at_most`."""
    held = select(literal(1)).select_from(schema.jobs).where(schema.IS_HELD).limit(at_most).subquery("held")
    return int(tx.execute(select(func.count()).select_from(held)).scalar_one())


def has_call_out_since(tx: Connection, before: datetime) -> bool:
    """Whether a call is out that went out before this moment."""
    held = select(literal(1)).select_from(schema.jobs).where(schema.IS_HELD, schema.jobs.c.updated_at <= before)
    return tx.execute(held.limit(1)).first() is not None


def throttle(tx: Connection, name: str, job_id: str, now: datetime) -> int | None:
    """The provider says of a job's call that it is too much: let half of what is out be out. The new limit, if any.

    No job narrows the lane twice in a row: what is refused again and again may be that one's own fault.
    """
    provider_limit = read_provider_limit(tx, name)
    if provider_limit.throttled_by == job_id:
        return None
    if provider_limit.throttled_at is not None and now - provider_limit.throttled_at < THROTTLE_EVERY:
        return None
    out = calls_out(tx)
    if out < 2:  # fewer than one at a time cannot be; the job's own backoff is what spares the provider
        return None
    row = schema.provider_limits.c
    limit = out // 2
    due = or_(row.throttled_at.is_(None), row.throttled_at <= now - THROTTLE_EVERY)
    throttled = {"max_calls": limit, "throttled_at": now, "throttled_by": job_id, "relaxed_at": now}
    return limit if _change(tx, name, due, **throttled) else None


def relax(tx: Connection, name: str, now: datetime, slots: int, *, after: timedelta = RELAX_EVERY) -> bool:
    """The provider takes what it gets: let a tenth more be out, at most once per `after`.

    A limit that is not half used is left as it is: nothing says that more would be taken.
    """
    provider_limit = read_provider_limit(tx, name)
    limit, relaxed_at = provider_limit.max_calls, provider_limit.relaxed_at
    if limit is None or relaxed_at is None or now - relaxed_at < after:
        return False
    if calls_out(tx, limit) * 2 < limit:
        return False
    wider = limit + max(1, limit // 10)
    same = schema.provider_limits.c.relaxed_at == relaxed_at
    return _change(tx, name, same, max_calls=wider if wider < slots else None, relaxed_at=now)


def relax_if_quiet(tx: Connection, provider_limit: ProviderLimit, now: datetime, slots: int) -> bool:
    """Widen a lane that was not refused for long: where calls take minutes, success alone is too slow a sign."""
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
    """The provider takes no call: let nothing out but a probe from time to time. True if it was open.

    `started_at` is when the refused call went out; one that went out through a closed lane was the probe. The first
    probe goes out after `pause`, each later one not before it.
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
    """Be the one that tries a closed lane; whoever dies over it is followed by another after `PROBE_TIMEOUT`."""
    row = schema.provider_limits.c
    probing = update(schema.provider_limits).where(
        row.name == provider_limit.name,
        row.paused_at == provider_limit.paused_at,
        row.probe_at == provider_limit.probe_at,
    )
    return tx.execute(probing.values(probe_at=now + PROBE_TIMEOUT, probes=row.probes + 1)).rowcount == 1


def probe_later(tx: Connection, name: str, started_at: datetime, now: datetime) -> None:
    """A probe brought neither yes nor no."""
    provider_limit = read_provider_limit(tx, name)
    row = schema.provider_limits.c
    if provider_limit.paused_at is not None and provider_limit.paused_at < started_at:
        _change(
            tx,
            name,
            row.paused_at == provider_limit.paused_at,
            probe_at=now + backoff.PROBES.pause(provider_limit.probes),
        )


def probe_now(tx: Connection, name: str, now: datetime) -> None:
    """Let a closed lane or log be tried at once: a worker has started, maybe with another key."""
    row = schema.provider_limits.c
    tx.execute(update(schema.provider_limits).where(row.name == name, row.paused_at.is_not(None)).values(probe_at=now))
    tx.execute(update(schema.provider_limits).where(row.name == name).values(log_off_until=None))


def log_is_off(tx: Connection, name: str, until: datetime) -> None:
    """The provider's own log of calls cannot be read, and need not be asked for until then."""
    _change(tx, name, true(), log_off_until=until)


def resume(tx: Connection, name: str, started_at: datetime) -> bool:
    """A call that went out through the closed lane was taken: open it for all."""
    row = schema.provider_limits.c
    opening = update(schema.provider_limits).where(row.name == name, row.paused_at < started_at)
    opened = opening.values(paused_at=None, pause_kind=None, pause_reason=None, probe_at=None)
    return tx.execute(opened).rowcount == 1


def _change(tx: Connection, name: str, condition: Any, **values: Any) -> bool:
    dialect = sqlite if tx.dialect.name == "sqlite" else postgresql
    tx.execute(dialect.insert(schema.provider_limits).values(name=name, probes=0).on_conflict_do_nothing())
    return (
        tx.execute(
            update(schema.provider_limits).where(schema.provider_limits.c.name == name, condition).values(values)
        ).rowcount
        == 1
    )
