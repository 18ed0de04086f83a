"""One attempt: claim, call, settle.

The process may die between any two lines. No transaction is open while the network is; the attempt's row is
committed before the call is sent, and what the call came to is written in one transaction with the job's next
status. An answer outlives a database that is away: recording is tried until it succeeds.
"""

import random
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import repeat
from typing import Any, Protocol

from sqlalchemy import Connection

from jobs.batching import Batcher, BatchFailed
from jobs.cancel_reason import AbortReason
from jobs.conversation import Turn, of_use, rebuild
from jobs.encryption import Cipher, DecryptionError
from jobs.errors import ChainBroken, ErrorKind, Failure, StaleJob
from jobs.event_stream import OnEvents
from jobs.job import Answer, Attempt, CallReport, Job
from jobs.lifecycle import Verb
from jobs.model_catalog import Catalogue, Model
from jobs.notifications import Notifier
from jobs.request_fields import asks_for_reasoning
from jobs.resource_shortage import shortage_of
from jobs.store.attempts import Asked, note_response, requests_of
from jobs.store.conversations import note_sent, read_turns
from jobs.store.database import DATABASE_ERRORS, TOGETHER_SECONDS, Database
from jobs.task_queue import TaskQueue
from jobs.telemetry import get_logger
from jobs.tool_credentials import Credentials
from worker.capacity import Capacity
from worker.claim import Claimer
from worker.commit_retry import record
from worker.in_flight import InFlightCalls
from worker.live_stream import LiveLog, LiveOutput, keep_rest
from worker.orphaned_outcomes import OrphanedOutcomes
from worker.outcome import (
    EndedCall,
    Policy,
    RecordedOutcome,
    call_deadline_failure,
    can_batch,
    record_outcome,
    record_outcomes,
)
from worker.pending_outcomes import PendingOutcomes
from worker.provider.call_handle import CallHandle
from worker.provider.request import build_body
from worker.provider.transport_errors import no_answer
from worker.provider_limiter import ProviderLimiter
from worker.registration import WorkerRegistration

# Calls are ended at their deadline by their line, which lets an answer that lies ready in the socket be read. Timers of
# the transport would go off before it is, where the whole process was held up for longer than the deadline.
LAST_RESORT = timedelta(minutes=1)
# Each may be as large as a body may be.
REQUESTS_TOGETHER = 8

log = get_logger(__name__)


class NoLongerOurs(Exception):
    """The job has been cancelled, deleted or given to another: no call is to be sent for it."""


class Provider(Protocol):
    """What makes a call and always comes back with a report."""

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
        """Send one request, which uses up `body`, and wait for its end.

        `accepted` keeps the id by which its answer can be resumed; `heard` is told the events of a stream, in which no
        item has one of the identities that were `told` before.
        """

    def accepts_item(self, item: Mapping[str, Any]) -> bool:
        """Whether an item of an earlier answer may stand in a later request."""

    def resume(self, response_id: str, *, model: Model, deadline: timedelta, handle: CallHandle) -> CallReport:
        """Wait for the end of what an earlier call has bought."""


@dataclass(frozen=True)
class _Batch:
    """Jobs that were settled together, and the deliveries which that has made."""

    job_ids: Sequence[str]
    deliveries: Sequence[str]


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
        self._pending_outcomes = pending_outcomes
        self._clock = clock or database.clock
        self._claims = Claimer(database, registration, provider_limit, self._clock)
        self._requests = Batcher(self._read_requests, REQUESTS_TOGETHER)
        self._outcomes = Batcher(self._record_all)
        self._catalogue = catalogue
        self._task_queue = task_queue
        self._notifier = notifier
        self._jitter = jitter
        self._cipher = cipher or Cipher(())
        self.orphaned_outcomes = OrphanedOutcomes(database, pending_outcomes, self._record_left, self._announce)

    @property
    def is_busy(self) -> bool:
        """Whether a job is being claimed, called or recorded."""
        return self._busy > 0

    def run(self, job_id: str) -> None:
        """Answer one bell. A stale one changes nothing; one for which there is no slot is dropped and rung again."""
        if not self._capacity.has_room(self._busy) or self._provider_limit.is_known_shut():
            return
        self._busy += 1
        try:
            begun = self._claims.claim(job_id)
            if begun is not None:
                self._run(begun.job, begun.attempt, is_probe=begun.is_probe)
        finally:
            self._busy -= 1

    def _run(self, job: Job, attempt: Attempt, *, is_probe: bool) -> None:
        length = min(self._policy.call_deadline, job.deadline_at - self._clock())
        handle = CallHandle()
        running = self._calls.begin(attempt, handle, length)
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
            self._record(EndedCall(job, attempt, report, aborted, self._clock()))
        except BaseException:  # our greenlet is killed: the audit says what that means
            self._calls.break_off(running)
            raise
        self._calls.end(running)

    def _call(self, job: Job, attempt: Attempt, handle: CallHandle, length: timedelta) -> CallReport:
        try:
            return self._ask(job, attempt, handle, length + LAST_RESORT)
        except NoLongerOurs:
            handle.abort(AbortReason.CANCELLED)
            return CallReport(no_answer(handle, "The response had ended before the call was sent."))
        except ChainBroken as error:  # it was whole at the claim; whoever claims next lets the job wait and fail
            handle.abort(AbortReason.RELEASED)
            return CallReport(no_answer(handle, error.message))
        except DecryptionError as error:
            message = f"The credentials of the request's tools cannot be read, and nothing was sent. {error}."
            return CallReport(Failure(ErrorKind.REJECTED, message))
        except Exception as error:  # noqa: BLE001  # an attempt ends here, whatever broke
            return CallReport(_broke(attempt, handle, error))

    def _ask(self, job: Job, attempt: Attempt, handle: CallHandle, deadline: timedelta) -> CallReport:
        """Read here what is to be sent, so that nobody holds a large prompt through the minutes of waiting.

        Raises:
            NoLongerOurs: the job has ended meanwhile.
            ChainBroken: a response that it rests upon was deleted.
            DecryptionError: the credentials of its tools cannot be read.
        """
        model = self._catalogue.of_job(job.model)
        asked = self._request(attempt)
        if attempt.resumes is not None:
            report = self._provider.resume(attempt.resumes, model=model, deadline=deadline, handle=handle)
            return self._without_credentials(report, asked)
        credentials = Credentials.opened(asked.credentials, self._cipher)
        shows_reasoning = asks_for_reasoning(asked.settings)
        live = self._live.open(attempt, shows_reasoning=shows_reasoning) if asked.settings.get("stream") else None
        body = self._body(job, attempt, asked, credentials)
        del asked
        report = self._provider.call(
            body,
            request_id=f"{job.id}:{attempt.number}",
            model=model,
            deadline=deadline,
            handle=handle,
            accepted=lambda response_id: self._accepted(attempt, response_id),
            on_events=None if live is None else _on_events(live, credentials),
            emitted=() if live is None else live.emitted,
        )
        return credentials.withheld_from(report)

    def _without_credentials(self, report: CallReport, asked: Asked) -> CallReport:
        """What was sent before needs no credentials any more, so it does not matter if they cannot be read."""
        try:
            return Credentials.opened(asked.credentials, self._cipher).withheld_from(report)
        except DecryptionError:
            return report

    def _body(self, job: Job, attempt: Attempt, asked: Asked, credentials: Credentials) -> dict[str, Any]:
        """What to send.

        Raises:
            ChainBroken: a response that it rests upon was deleted.
            DecryptionError: the credentials in one of them cannot be read.
        """
        whole = credentials.put_back({**asked.settings, "input": asked.input})
        input_ = whole.pop("input")
        before = job.previous_response_id
        if before is not None:
            with self._database.read() as tx:
                turns = read_turns(tx, before, job.api_key_id)
            input_ = rebuild(map(self._whole, turns), input_, self._provider.accepts_item)
            self._note_sent(attempt, len(turns) + 1, len(input_))
        elif isinstance(input_, list):
            input_ = of_use(input_)
        return build_body(whole, input_, model_id=job.model, truncation=attempt.truncation)

    def _whole(self, turn: Turn) -> Turn:
        if turn.credentials is None:
            return turn
        given = Credentials.opened(turn.credentials, self._cipher).put_back_into_input(turn.input)
        return replace(turn, input=given)

    def _request(self, attempt: Attempt) -> Asked:
        """What was asked, unless the job ended between the claim and our entry in the list of calls.

        Raises:
            NoLongerOurs: it did.
        """
        try:
            request = self._requests.do(attempt)
        except BatchFailed:
            [request] = self._read_requests([attempt])
        if request is None:
            raise NoLongerOurs
        return request

    def _read_requests(self, attempts: Sequence[Attempt]) -> Sequence[Asked | None]:
        with self._database.read(within=TOGETHER_SECONDS) as tx:
            return requests_of(tx, attempts)

    def _note_sent(self, attempt: Attempt, responses: int, items: int) -> None:
        with self._database.begin() as tx:
            note_sent(tx, attempt, responses, items, self._clock())

    def _accepted(self, attempt: Attempt, response_id: str) -> None:
        record(self._database, lambda tx: note_response(tx, attempt, response_id), job_id=attempt.job_id)

    def _record(self, ended: EndedCall) -> None:
        emitted = self._live.close(ended.attempt)
        with self._pending_outcomes.until_recorded(ended, emitted):
            self._commit(ended, emitted)

    def _commit(self, ended: EndedCall, emitted: LiveOutput | None) -> None:
        if can_batch(ended):
            try:
                batch = self._outcomes.do((ended, emitted))
            except (BatchFailed, StaleJob, *DATABASE_ERRORS) as error:  # each on its own, then, until it is committed
                log.info("not settled together", job_id=ended.job.id, error=str(error) or type(error).__name__)
            else:
                if batch is not None:
                    self._notifier.ended(*batch.job_ids, deliveries=batch.deliveries)
                return

        def write(tx: Connection) -> RecordedOutcome | None:
            if emitted is not None and isinstance(ended.report.result, Answer):
                keep_rest(tx, [emitted])
            return record_outcome(tx, ended, self._policy, self._jitter())

        settled = record(self._database, write, job_id=ended.job.id)
        if settled is None:
            log.info("booked", job_id=ended.job.id, attempt=ended.attempt.number, aborted=ended.aborted)
        else:
            self._announce(settled, ended)

    def _record_all(self, calls: Sequence[tuple[EndedCall, LiveOutput | None]]) -> Sequence[_Batch | None]:
        """Record them; the first is told of all, to announce them when the next ones may be recorded already.

        A broker that hangs keeps whoever tells it of something for seconds, and no answer is to wait for that.
        """
        ended = [each for each, _ in calls]
        with self._database.begin(within=TOGETHER_SECONDS) as tx:
            keep_rest(tx, [emitted for _, emitted in calls if emitted is not None])
            settled, deliveries = record_outcomes(tx, ended)
        for now, before in zip(settled, ended, strict=True):
            _log(now, before)
        return [_Batch([each.job.id for each in settled], deliveries), *repeat(None, len(calls) - 1)]

    def _record_left(self, tx: Connection, ended: EndedCall) -> RecordedOutcome | None:
        return record_outcome(tx, ended, self._policy, self._jitter())

    def _announce(self, settled: RecordedOutcome, ended: EndedCall) -> None:
        job = settled.job
        _log(settled, ended)
        if job.status.is_terminal:
            self._notifier.ended(job.id)
            if settled.verb in {Verb.ADOPT, Verb.ADOPT_PARTIAL}:
                self._notifier.stop(job.id, job.attempt, AbortReason.SUPERSEDED)
        elif job.parked_until is None and job.available_at <= self._clock():
            self._task_queue.enqueue([job.id])


def _on_events(live: LiveOutput, credentials: Credentials) -> OnEvents:
    """Who is told the events of a stream."""
    if not credentials:
        return live.record
    return lambda events: live.record([credentials.withheld_from_event(each) for each in events])


def _log(settled: RecordedOutcome, ended: EndedCall) -> None:
    job, attempt = settled.job, ended.attempt
    seconds = round((ended.ended_at - attempt.started_at).total_seconds(), 3)
    log.info(settled.verb, job_id=job.id, attempt=attempt.number, status=job.status, seconds=seconds)


def _broke(attempt: Attempt, handle: CallHandle, error: Exception) -> Failure:
    if handle.never_sent and isinstance(error, DATABASE_ERRORS):  # by the look at the request, as a rule
        log.warning("request could not be read", job_id=attempt.job_id, error=type(error).__name__)
        handle.abort(AbortReason.RELEASED)
        return no_answer(handle, "The database was away when the call was to be sent.")
    shortage = shortage_of(error) if handle.never_sent else None
    if shortage is not None:
        return replace(no_answer(handle, f"The call could not be sent: {shortage}."), shortage=shortage)
    log.error("attempt broke", job_id=attempt.job_id, attempt=attempt.number, exc_info=error)
    return Failure(ErrorKind.INTERRUPTED, f"An internal error ended the call ({type(error).__name__}).")


def _is_cut(report: CallReport) -> bool:
    """Whether a call brought nothing that was read to its end; an empty output was."""
    return isinstance(report.result, Failure) and report.result.kind is not ErrorKind.EMPTY_OUTPUT
