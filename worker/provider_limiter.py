"""The provider limit as this process uses it: read before a claim, and updated when calls end.

A probe is a job's own call: every provider has that route, and nothing is billed that nobody asked for. A refusal comes
at once, but an answer may take an hour. So a probe counts as accepted once the provider has begun to answer with
success, or has not refused it for a few seconds.
"""

from collections.abc import Callable
from datetime import datetime, timedelta
from threading import Timer
from time import monotonic
from typing import Final

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from jobs import backoff
from jobs.errors import ErrorKind, Failure
from jobs.job import Attempt, CallReport
from jobs.store import provider_limits
from jobs.store.account_refusals import ACCEPTED_AFTER, REFUSALS, any_accepted, is_account_refusal
from jobs.store.database import Database, database_now
from jobs.store.provider_limits import ProviderLimit, ProviderLimitSettings
from jobs.store.workers import live_slots
from jobs.telemetry import get_logger
from worker.provider.call_handle import CallHandle

THROTTLING = frozenset({ErrorKind.RATE_LIMITED, ErrorKind.OVERLOADED})
# These do not show whether the provider would have accepted our key.
INCONCLUSIVE = frozenset(
    {
        ErrorKind.UNREACHABLE,
        ErrorKind.OVERLOADED,
        ErrorKind.INTERRUPTED,
        ErrorKind.SERVER_ERROR,
        ErrorKind.GATEWAY_TIMEOUT,
        ErrorKind.CALL_DEADLINE,
        ErrorKind.MALFORMED_ANSWER,
    }
)
REMEMBERED_SECONDS = 0.5
REFUSALS_IN_A_ROW: Final = 3
REFUSED_FOR: Final = timedelta(seconds=1)
"""After `REFUSALS_IN_A_ROW` calls in a row over this time without an accepted one, the provider counts as away."""

log = get_logger(__name__)


class ProbeTaken(Exception):
    """Another process has taken the probe first, so the claim must be undone."""


class _Streak:
    """Calls of this process in a row that cost nothing and returned nothing."""

    def __init__(self) -> None:
        self.calls = 0
        self._job_ids: set[str] = set()
        self._since = 0.0
        self._trial: tuple[str, float] | None = None
        self._was_reached = True
        self._longest = timedelta(0)
        self.began_at: datetime | None = None

    @property
    def is_new(self) -> bool:
        """Return whether it may still be chance."""
        return monotonic() - self._since < REFUSED_FOR.total_seconds()

    @property
    def is_of_many(self) -> bool:
        """Return whether more than one job was refused."""
        return len(self._job_ids) > 1

    @property
    def seems_away(self) -> bool:
        """Return whether the provider may be away: several calls failed, and no single job is the cause."""
        return self.calls >= REFUSALS_IN_A_ROW and (self.is_of_many or not self._was_reached)

    @property
    def holds_back(self) -> bool:
        """Return whether the next calls wait, for a moment or for the one call that tries the provider."""
        is_tried = self._trial is not None and monotonic() - self._trial[1] < ACCEPTED_AFTER.total_seconds()
        return self.calls >= REFUSALS_IN_A_ROW and (self.is_new or is_tried)

    def try_with(self, job_id: str) -> None:
        """Let this job alone try the provider."""
        self._trial = job_id, monotonic()

    def end_trial(self, job_id: str) -> None:
        """Let another job try, if this one did."""
        if self._trial is not None and self._trial[0] == job_id:
            self._trial = None

    @property
    def accepted_after(self) -> timedelta:
        """Time after which a call counts as accepted, as a refusal would have come by then."""
        return min(ACCEPTED_AFTER, max(REFUSED_FOR, 2 * self._longest))

    def add(self, attempt: Attempt, kind: ErrorKind, now: datetime) -> None:
        """Add a call."""
        self._was_reached = kind is not ErrorKind.UNREACHABLE
        self._longest = max(self._longest, now - attempt.started_at)
        if self.began_at is None:
            self._since, self.began_at = monotonic(), attempt.started_at
        self.calls += 1
        if not self.is_of_many:
            self._job_ids.add(attempt.job_id)


class ProviderLimiter:
    """The provider limit as one process knows it."""

    def __init__(
        self,
        database: Database,
        settings: ProviderLimitSettings,
        worker_timeout: timedelta,
        clock: Callable[[], datetime],
    ) -> None:
        self._database = database
        self._settings = settings
        self._worker_timeout = worker_timeout
        self._clock = clock
        self._last = ProviderLimit(settings.name)
        self._read_at = float("-inf")
        self._throttled_at = float("-inf")
        self._streak = _Streak()

    def is_known_shut(self) -> bool:
        """Return whether the provider took no calls a moment ago, so that the database need not be read again.

        After several refusals in a row the next calls wait for a moment, and then for the one call that tries the
        provider, because they would be refused too.
        """
        if self._streak.holds_back:
            return True
        return monotonic() - self._read_at < REMEMBERED_SECONDS and self._last.refuses_all(self._clock())

    def admits(self, tx: Connection, wanted: int) -> tuple[ProviderLimit, int]:
        """Return the provider limit, and how many of the `wanted` calls may be made now.

        It is one, a probe, while the provider is paused or seems to be away.
        """
        provider_limit = provider_limits.read_provider_limit(tx, self._settings.name)
        self._last, self._read_at = provider_limit, monotonic()
        if (
            provider_limit.refuses_all(self._clock()) or self._streak.holds_back
        ):  # refused meanwhile, while others were claimed
            return provider_limit, 0
        room = 1 if provider_limit.paused_at is not None or self._streak.seems_away else wanted
        limit = self._settings.limit(provider_limit)
        if limit is not None:
            room = min(room, limit - provider_limits.running_calls(tx, limit))
        return provider_limit, room

    def is_probe(self, tx: Connection, provider_limit: ProviderLimit, job_id: str) -> bool:
        """Return whether the call just claimed probes a paused provider, or tries one that seems to be away.

        Raises:
            ProbeTaken: another process has the probe, so the claim must be undone.
        """
        if provider_limit.paused_at is None:
            if self._streak.seems_away:
                self._streak.try_with(job_id)
            return self._streak.seems_away
        if not provider_limits.take_probe(tx, provider_limit, self._clock()):
            raise ProbeTaken
        return True

    def watch_probe(self, attempt: Attempt, handle: CallHandle) -> Timer:
        """Return a timer that resumes the provider once the probe is accepted. Cancel it when the call ends."""

        def accepted() -> None:
            timer.cancel()
            self._update(lambda tx: self._resume(tx, attempt))

        def not_refused() -> None:
            if not handle.never_sent:  # a connection that is still being made shows nothing yet
                accepted()

        after = ACCEPTED_AFTER if self._last.paused_at is not None else self._streak.accepted_after
        timer = Timer(after.total_seconds(), not_refused)
        timer.daemon = True
        handle.on_success = accepted
        timer.start()
        return timer

    def call_ended(self, attempt: Attempt, report: CallReport) -> None:
        """Update the limit after a call. If that call tried the provider, no other does before the update."""
        self._update_after(attempt, report)
        self._streak.end_trial(attempt.job_id)

    def _update_after(self, attempt: Attempt, report: CallReport) -> None:
        failure = report.result if isinstance(report.result, Failure) else None
        kind = None if failure is None else failure.kind
        if failure is not None and failure.kind in REFUSALS:
            self._streak = _Streak()  # the provider was reached
            self._update(lambda tx: self._refused(tx, attempt, failure))
            return
        if (
            kind in THROTTLING
            and monotonic() - self._throttled_at >= provider_limits.THROTTLE_EVERY.total_seconds() / 2
        ):
            self._throttled_at = monotonic()
            self._update(lambda tx: self._throttle(tx, attempt))
        if failure is not None and failure.is_outage:
            self._add_outage(attempt, failure)
            return
        if failure is None or failure.http_status is not None:
            self._streak = _Streak()
        if self._last.paused_at is not None:
            # without a status the provider was asked nothing, or gave no answer
            is_inconclusive = failure is not None and (failure.kind in INCONCLUSIVE or failure.http_status is None)
            self._update(lambda tx: self._probe_later(tx, attempt) if is_inconclusive else self._resume(tx, attempt))
        if kind is None and self._last.max_calls is not None:
            self._update(self._relax)

    def _add_outage(self, attempt: Attempt, failure: Failure) -> None:
        """Add a call that cost nothing and returned nothing, as any other call might have."""
        self._streak.add(attempt, failure.kind, self._clock())
        seems_away = self._streak.calls >= REFUSALS_IN_A_ROW and not self._streak.is_new
        if seems_away or self._last.paused_at is not None:
            self._update(lambda tx: self._missed(tx, attempt, failure, seems_away=seems_away))

    def _missed(self, tx: Connection, attempt: Attempt, failure: Failure, *, seems_away: bool) -> None:
        provider_limit = provider_limits.read_provider_limit(tx, self._settings.name)
        if provider_limit.pause_kind in REFUSALS:
            # a rate limit shows that the key is good; anything else shows nothing
            if failure.kind is ErrorKind.RATE_LIMITED:
                self._resume(tx, attempt)
            else:
                self._probe_later(tx, attempt)
        elif provider_limit.paused_at is not None or (seems_away and self._is_away(tx, attempt, failure)):
            self._pause(tx, attempt, failure)

    def _is_away(self, tx: Connection, attempt: Attempt, failure: Failure) -> bool:
        """Return whether no call was accepted since the first refusal.

        If only one job is refused, the cause may be that job, unless the provider was not reached at all. A rate limit
        throttles the provider for as long as other calls run.
        """
        began_at, now = self._streak.began_at, self._clock()
        if began_at is None or not (self._streak.is_of_many or failure.kind is ErrorKind.UNREACHABLE):
            return False
        after = max(REFUSED_FOR, 2 * (now - attempt.started_at))
        is_full = failure.kind is ErrorKind.RATE_LIMITED and provider_limits.has_call_running_since(tx, now - after)
        if is_full or any_accepted(tx, attempt, began_at, now, after=after):
            self._streak = _Streak()
            return False
        return True

    def _refused(self, tx: Connection, attempt: Attempt, failure: Failure) -> None:
        provider_limit = provider_limits.read_provider_limit(tx, self._settings.name)
        if provider_limit.pause_kind is ErrorKind.UNREACHABLE:  # it answers
            self._resume(tx, attempt)
        is_paused = provider_limit.pause_kind in REFUSALS
        if is_paused or is_account_refusal(tx, attempt, self._clock(), is_unmistakable=failure.is_unmistakable):
            self._pause(tx, attempt, failure)
        elif provider_limit.pause_kind in THROTTLING:  # this refusal does not show that the provider has room again
            self._probe_later(tx, attempt)

    def _pause(self, tx: Connection, attempt: Attempt, failure: Failure) -> None:
        """Pause the provider.

        After a refusal of the account the first probe is made at once: it shows whether another job is refused too.
        """
        status = None if failure.http_status is None else f"HTTP {failure.http_status}"
        because = failure.unreachable_reason or status
        pause = max(backoff.PROBES.pause(1), failure.retry_after or timedelta(0)) if failure.is_outage else timedelta(0)
        name, now = self._settings.name, self._clock()
        if provider_limits.pause(tx, name, failure.kind, attempt.started_at, now, because=because, pause=pause):
            log.error(
                "provider paused",
                provider_limit=name,
                reason=failure.kind,
                because=because,
                refused=self._streak.calls or 1,
            )
        self._last, self._read_at = provider_limits.read_provider_limit(tx, name), monotonic()

    def _resume(self, tx: Connection, attempt: Attempt) -> None:
        provider_limit = provider_limits.read_provider_limit(tx, self._settings.name)
        if provider_limit.paused_at is not None and provider_limits.resume(tx, provider_limit.name, attempt.started_at):
            seconds = round((self._clock() - provider_limit.paused_at).total_seconds(), 1)
            refused = max(0, provider_limit.probes - 1)
            log.info(
                "provider resumed",
                provider_limit=provider_limit.name,
                reason=provider_limit.pause_kind,
                seconds=seconds,
                refused_probes=refused,
            )
        self._streak = _Streak()
        self._last, self._read_at = provider_limits.read_provider_limit(tx, self._settings.name), monotonic()

    def _probe_later(self, tx: Connection, attempt: Attempt) -> None:
        provider_limits.probe_later(tx, self._settings.name, attempt.started_at, self._clock())

    def _throttle(self, tx: Connection, attempt: Attempt) -> None:
        limit = provider_limits.throttle(tx, self._settings.name, attempt.job_id, self._clock())
        if limit is not None:
            log.warning("provider throttled", provider_limit=self._settings.name, calls=limit)

    def _relax(self, tx: Connection) -> None:
        slots = live_slots(tx, database_now(tx), self._worker_timeout)
        provider_limits.relax(tx, self._settings.name, self._clock(), slots)

    def _update(self, change: Callable[[Connection], None]) -> None:
        """Run `change` in a transaction. If the database is away, the next call updates the limit instead."""
        try:
            with self._database.begin() as tx:
                change(tx)
        except SQLAlchemyError as error:
            log.warning("provider limit not updated", error=type(error).__name__)
        except Exception:  # whatever broke, the outcome must still be recorded
            log.exception("provider limit not updated")
