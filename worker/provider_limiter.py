"""What this process does about the provider's lane: asks it before a claim, and tells it how calls ended.

A probe is a job's own call: every provider has that route, and nothing is bought that nobody asked for. A refusal
comes at once and an answer may take an hour, so a probe was taken once the provider has begun to answer it with
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
# After these nobody knows whether the provider would have taken our key.
SAY_NOTHING = frozenset(
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
"""So many calls one after the other, and for so long, without one that was taken: nothing gets through."""

log = get_logger(__name__)


class ProbeTaken(Exception):
    """Another took the probe first: undo the claim."""


class _Streak:
    """Calls of this process that cost nothing and brought nothing, one after the other."""

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
        """Whether it might still be chance."""
        return monotonic() - self._since < REFUSED_FOR.total_seconds()

    @property
    def is_of_many(self) -> bool:
        """Whether more than one job was refused."""
        return len(self._job_ids) > 1

    @property
    def seems_away(self) -> bool:
        """Whether the provider may take no call at all, as there were several and no single job is to blame."""
        return self.calls >= REFUSALS_IN_A_ROW and (self.is_of_many or not self._was_reached)

    @property
    def holds_back(self) -> bool:
        """Whether the next calls wait for a moment, or for the one that tries whether the provider is back."""
        is_tried = self._trial is not None and monotonic() - self._trial[1] < ACCEPTED_AFTER.total_seconds()
        return self.calls >= REFUSALS_IN_A_ROW and (self.is_new or is_tried)

    def try_with(self, job_id: str) -> None:
        """Let this job alone try."""
        self._trial = job_id, monotonic()

    def end_trial(self, job_id: str) -> None:
        """Let another try, if this one did."""
        if self._trial is not None and self._trial[0] == job_id:
            self._trial = None

    @property
    def taken_after(self) -> timedelta:
        """How long a call is out that the provider has taken, as a refusal would have come by then."""
        return min(ACCEPTED_AFTER, max(REFUSED_FOR, 2 * self._longest))

    def add(self, attempt: Attempt, kind: ErrorKind, now: datetime) -> None:
        """One more."""
        self._was_reached = kind is not ErrorKind.UNREACHABLE
        self._longest = max(self._longest, now - attempt.started_at)
        if self.began_at is None:
            self._since, self.began_at = monotonic(), attempt.started_at
        self.calls += 1
        if not self.is_of_many:
            self._job_ids.add(attempt.job_id)


class ProviderLimiter:
    """One process's view of the lane."""

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
        """Whether the lane was shut a moment ago, so that asking the database again is no use.

        Where several calls were just refused in a row, the next ones wait for a moment, and then for the one of them
        that goes out: they would be refused as well.
        """
        if self._streak.holds_back:
            return True
        return monotonic() - self._read_at < REMEMBERED_SECONDS and self._last.refuses_all(self._clock())

    def admits(self, tx: Connection, wanted: int) -> tuple[ProviderLimit, int]:
        """The lane, and how many of so many wanted calls may go out now.

        One that is closed wants a single probe, and so does a provider that seems to be away.
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
        """Whether the call just claimed is the probe of a closed lane, or tries a provider that seems to be away.

        Raises:
            ProbeTaken: another is it, so the claim must be undone.
        """
        if provider_limit.paused_at is None:
            if self._streak.seems_away:
                self._streak.try_with(job_id)
            return self._streak.seems_away
        if not provider_limits.take_probe(tx, provider_limit, self._clock()):
            raise ProbeTaken
        return True

    def watch_probe(self, attempt: Attempt, handle: CallHandle) -> Timer:
        """Open the lane as soon as the probe was taken; to be cancelled when it ends."""

        def taken() -> None:
            timer.cancel()
            self._tell(lambda tx: self._reopen(tx, attempt))

        def not_refused() -> None:
            if not handle.never_sent:  # a connection that still is being made says nothing; its answer will
                taken()

        after = ACCEPTED_AFTER if self._last.paused_at is not None else self._streak.taken_after
        timer = Timer(after.total_seconds(), not_refused)
        timer.daemon = True
        handle.on_success = taken
        timer.start()
        return timer

    def call_ended(self, attempt: Attempt, report: CallReport) -> None:
        """A call has ended; if it was to try the provider, no other does before the lane was told."""
        self._take_note(attempt, report)
        self._streak.end_trial(attempt.job_id)

    def _take_note(self, attempt: Attempt, report: CallReport) -> None:
        failure = report.result if isinstance(report.result, Failure) else None
        kind = None if failure is None else failure.kind
        if failure is not None and failure.kind in REFUSALS:
            self._streak = _Streak()  # it was reached
            self._tell(lambda tx: self._refused(tx, attempt, failure))
            return
        if (
            kind in THROTTLING
            and monotonic() - self._throttled_at >= provider_limits.THROTTLE_EVERY.total_seconds() / 2
        ):
            self._throttled_at = monotonic()
            self._tell(lambda tx: self._throttle(tx, attempt))
        if failure is not None and failure.is_outage:
            self._weathered(attempt, failure)
            return
        if failure is None or failure.http_status is not None:
            self._streak = _Streak()
        if self._last.paused_at is not None:
            # without a status nothing was asked of the provider, or it gave no answer
            undecided = failure is not None and (failure.kind in SAY_NOTHING or failure.http_status is None)
            self._tell(lambda tx: self._probe_later(tx, attempt) if undecided else self._reopen(tx, attempt))
        if kind is None and self._last.max_calls is not None:
            self._tell(self._relax)

    def _weathered(self, attempt: Attempt, failure: Failure) -> None:
        """A call cost nothing and brought nothing, as every other one might have."""
        self._streak.add(attempt, failure.kind, self._clock())
        seems_away = self._streak.calls >= REFUSALS_IN_A_ROW and not self._streak.is_new
        if seems_away or self._last.paused_at is not None:
            self._tell(lambda tx: self._missed(tx, attempt, failure, seems_away=seems_away))

    def _missed(self, tx: Connection, attempt: Attempt, failure: Failure, *, seems_away: bool) -> None:
        provider_limit = provider_limits.read_provider_limit(tx, self._settings.name)
        if provider_limit.pause_kind in REFUSALS:
            # too many calls with a good key, or nobody knows
            if failure.kind is ErrorKind.RATE_LIMITED:
                self._reopen(tx, attempt)
            else:
                self._probe_later(tx, attempt)
        elif provider_limit.paused_at is not None or (seems_away and self._nothing_gets_through(tx, attempt, failure)):
            self._close(tx, attempt, failure)

    def _nothing_gets_through(self, tx: Connection, attempt: Attempt, failure: Failure) -> bool:
        """Whether no call was taken since the first that was refused.

        One job that alone is refused may have itself to blame, unless the provider was not reached at all. Too many
        calls are for narrowing as long as some are out.
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
        if provider_limit.pause_kind is ErrorKind.UNREACHABLE:  # it is there, and answers
            self._reopen(tx, attempt)
        is_closed = provider_limit.pause_kind in REFUSALS
        if is_closed or is_account_refusal(tx, attempt, self._clock(), is_unmistakable=failure.is_unmistakable):
            self._close(tx, attempt, failure)
        elif (
            provider_limit.pause_kind in THROTTLING
        ):  # whoever refuses this one need not be who was too busy for the others
            self._probe_later(tx, attempt)

    def _close(self, tx: Connection, attempt: Attempt, failure: Failure) -> None:
        """The first probe of an account goes out at once, as it shows whether another job is refused as well."""
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

    def _reopen(self, tx: Connection, attempt: Attempt) -> None:
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

    def _tell(self, change: Callable[[Connection], None]) -> None:
        """The lane is a help, not a record: a database that is away will hear of the next call."""
        try:
            with self._database.begin() as tx:
                change(tx)
        except SQLAlchemyError as error:
            log.warning("provider limit not updated", error=type(error).__name__)
        except Exception:  # whatever broke, the call's end is still to be recorded
            log.exception("provider limit not updated")
