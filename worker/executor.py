"""One attempt: claim, call, record the outcome.

The process may die between any two lines. No transaction is open during the call. The attempt's row is committed before
the call is sent, and one transaction writes the outcome and the job's next status. If the database is away, recording
is repeated until it succeeds.
"""

import random
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final, Protocol

from jobs.cancel_reason import AbortReason
from jobs.encryption import Cipher, DecryptionError
from jobs.errors import ChainBroken, ErrorKind, Failure
from jobs.event_stream import OnEvents
from jobs.job import Attempt, CallReport, Job
from jobs.model_catalog import Catalogue, Model
from jobs.notifications import Notifier
from jobs.request_fields import asks_for_reasoning
from jobs.resource_shortage import shortage_of
from jobs.store.attempts import note_response
from jobs.store.database import DATABASE_ERRORS, Database
from jobs.task_queue import TaskQueue
from jobs.telemetry import get_logger
from jobs.tool_credentials import Credentials
from worker.capacity import Capacity
from worker.claim import Claimer
from worker.commit_retry import commit_with_retry
from worker.in_flight import InFlightCalls
from worker.live_stream import LiveLog, LiveOutput
from worker.orphaned_outcomes import OrphanedOutcomes
from worker.outcome import EndedCall, Policy, call_deadline_failure
from worker.outcome_recorder import OutcomeRecorder
from worker.pending_outcomes import PendingOutcomes
from worker.provider.call_handle import CallHandle
from worker.provider.transport_errors import no_answer
from worker.provider_limiter import ProviderLimiter
from worker.registration import WorkerRegistration
from worker.request_reader import JobLost, RequestReader

TRANSPORT_GRACE: Final = timedelta(minutes=1)
"""Time after a call's deadline until the transport's own timers end it. `InFlightCalls` ends calls at their deadline,
and lets an answer that is already in the socket be read. After the process was paused, the transport would not."""

log = get_logger(__name__)


class Provider(Protocol):
    """Makes calls. Each comes back with a report, whatever happens."""

    def call(
        self,
        body: dict[str, Any],
        *,
        request_id: str,
        model: Model,
        deadline: timedelta,
        handle: CallHandle,
        accepted: Callable[[str], None],
        on_events: OnEvents | None,
        emitted: Collection[str],
    ) -> CallReport:
        """Send one request, which consumes `body`, and wait for its end.

        `accepted` stores the id by which the answer can be resumed. `on_events` receives the events of a stream, except
        those of items whose identity is among those `emitted` before.
        """

    def accepts_item(self, item: Mapping[str, Any]) -> bool:
        """Return whether an item of an earlier answer may be part of a later request."""

    def resume(self, response_id: str, *, model: Model, deadline: timedelta, handle: CallHandle) -> CallReport:
        """Wait for the end of a response that an earlier call has started."""


class Executor:
    """Runs attempts for one worker process."""

    def __init__(
        self,
        database: Database,
        provider: Provider,
        policy: Policy,
        *,
        registration: WorkerRegistration,
        capacity: Capacity | None = None,
        provider_limit: ProviderLimiter,
        calls: InFlightCalls,
        live: LiveLog,
        pending_outcomes: PendingOutcomes,
        catalogue: Catalogue,
        task_queue: TaskQueue,
        notifier: Notifier,
        clock: Callable[[], datetime] | None = None,
        jitter: Callable[[], float] = random.random,
        cipher: Cipher | None = None,
    ) -> None:
        self._database = database
        self._provider = provider
        self._policy = policy
        self._provider_limit = provider_limit
        self._busy = 0
        self._calls = calls
        self._capacity = capacity or Capacity(registration, calls)
        self._live = live
        self._catalogue = catalogue
        self._clock = clock or database.clock
        self._claimer = Claimer(database, registration, provider_limit, self._clock)
        self._requests = RequestReader(database, cipher or Cipher(()), self._clock, provider.accepts_item)
        self._outcomes = OutcomeRecorder(
            database,
            policy,
            live=live,
            pending_outcomes=pending_outcomes,
            task_queue=task_queue,
            notifier=notifier,
            clock=self._clock,
            jitter=jitter,
        )

    @property
    def orphaned_outcomes(self) -> OrphanedOutcomes:
        """The outcomes that other processes have left in files."""
        return self._outcomes.orphaned

    @property
    def is_busy(self) -> bool:
        """Return whether a job is being claimed, called or recorded."""
        return self._busy > 0

    def run(self, job_id: str) -> None:
        """Handle one message. A stale one changes nothing; one without a slot is dropped and sent again later."""
        if not self._capacity.has_room(self._busy) or self._provider_limit.is_known_shut():
            return
        self._busy += 1
        try:
            claimed = self._claimer.claim(job_id)
            if claimed is not None:
                self._run(claimed.job, claimed.attempt, is_probe=claimed.is_probe)
        finally:
            self._busy -= 1

    def _run(self, job: Job, attempt: Attempt, *, is_probe: bool) -> None:
        length = min(self._policy.call_deadline, job.deadline_at - self._clock())
        handle = CallHandle()
        in_flight = self._calls.begin(attempt, handle, length)
        watch = self._provider_limit.watch_probe(attempt, handle) if is_probe else None
        try:
            report = self._call(job, attempt, handle, length)
            if handle.aborted is AbortReason.CALL_DEADLINE and _is_cut(report):
                report = replace(report, result=call_deadline_failure(length))
            aborted = handle.aborted
            if isinstance(report.result, Failure) and report.result.shortage is not None:
                self._capacity.short_of(report.result.shortage)
                aborted = aborted or AbortReason.RELEASED
            if watch is not None:
                watch.cancel()
            self._provider_limit.call_ended(attempt, report)
            self._outcomes.record(EndedCall(job, attempt, report, aborted, self._clock()))
        except BaseException:  # this greenlet is killed: `rescue_orphans` decides what that means
            self._calls.break_off(in_flight)
            raise
        self._calls.end(in_flight)

    def _call(self, job: Job, attempt: Attempt, handle: CallHandle, length: timedelta) -> CallReport:
        try:
            return self._send(job, attempt, handle, length + TRANSPORT_GRACE)
        except JobLost:
            handle.abort(AbortReason.CANCELLED)
            return CallReport(no_answer(handle, "The response had ended before the call was sent."))
        except ChainBroken as error:  # it was complete at the claim; the next claim lets the job wait and fail
            handle.abort(AbortReason.RELEASED)
            return CallReport(no_answer(handle, error.message))
        except DecryptionError as error:
            message = f"The credentials of the request's tools cannot be read, and nothing was sent. {error}."
            return CallReport(Failure(ErrorKind.REJECTED, message))
        except Exception as error:  # noqa: BLE001  # an attempt ends here, whatever broke
            return CallReport(_internal_failure(attempt, handle, error))

    def _send(self, job: Job, attempt: Attempt, handle: CallHandle, deadline: timedelta) -> CallReport:
        """Read the request, send it and wait for the report.

        The request is read here and not before, so that a large prompt is not held for the minutes of waiting.

        Raises:
            JobLost: the job has ended in the meantime.
            ChainBroken: an earlier response of the conversation was deleted.
            DecryptionError: the credentials of the request's tools cannot be read.
        """
        model = self._catalogue.of_job(job.model)
        asked = self._requests.read(attempt)
        if attempt.resumes is not None:
            report = self._provider.resume(attempt.resumes, model=model, deadline=deadline, handle=handle)
            return self._requests.without_credentials(report, asked)
        credentials = self._requests.credentials(asked)
        shows_reasoning = asks_for_reasoning(asked.settings)
        live = self._live.open(attempt, shows_reasoning=shows_reasoning) if asked.settings.get("stream") else None
        body = self._requests.body(job, attempt, asked, credentials)
        del asked
        report = self._provider.call(
            body,
            request_id=f"{job.id}:{attempt.number}",
            model=model,
            deadline=deadline,
            handle=handle,
            accepted=lambda response_id: self._note_response(attempt, response_id),
            on_events=None if live is None else _on_events(live, credentials),
            emitted=() if live is None else live.emitted,
        )
        return credentials.withheld_from(report)

    def _note_response(self, attempt: Attempt, response_id: str) -> None:
        commit_with_retry(self._database, lambda tx: note_response(tx, attempt, response_id), job_id=attempt.job_id)


def _on_events(live: LiveOutput, credentials: Credentials) -> OnEvents:
    """Return the function that receives the events of a stream."""
    if not credentials:
        return live.record
    return lambda events: live.record([credentials.withheld_from_event(each) for each in events])


def _internal_failure(attempt: Attempt, handle: CallHandle, error: Exception) -> Failure:
    if handle.never_sent and isinstance(error, DATABASE_ERRORS):  # usually while reading the request
        log.warning("request could not be read", job_id=attempt.job_id, error=type(error).__name__)
        handle.abort(AbortReason.RELEASED)
        return no_answer(handle, "The database was away when the call was to be sent.")
    shortage = shortage_of(error) if handle.never_sent else None
    if shortage is not None:
        return replace(no_answer(handle, f"The call could not be sent: {shortage}."), shortage=shortage)
    log.error("attempt broke", job_id=attempt.job_id, attempt=attempt.number, exc_info=error)
    return Failure(ErrorKind.INTERRUPTED, f"An internal error ended the call ({type(error).__name__}).")


def _is_cut(report: CallReport) -> bool:
    """Return whether no answer was read to its end. An empty output was."""
    return isinstance(report.result, Failure) and report.result.kind is not ErrorKind.EMPTY_OUTPUT
