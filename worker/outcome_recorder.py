"""Records outcomes until they are committed, however long the database is away, and publishes what they changed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import repeat

from sqlalchemy import Connection

from jobs.batching import Batcher, BatchFailed
from jobs.cancel_reason import AbortReason
from jobs.errors import StaleJob
from jobs.job import Answer
from jobs.lifecycle import Verb
from jobs.notifications import Notifier
from jobs.store.database import DATABASE_ERRORS, TOGETHER_SECONDS, Database
from jobs.task_queue import TaskQueue
from jobs.telemetry import get_logger
from worker.commit_retry import commit_with_retry
from worker.live_stream import LiveLog, LiveOutput, keep_rest
from worker.orphaned_outcomes import OrphanedOutcomes
from worker.outcome import EndedCall, Policy, RecordedOutcome, can_batch, record_outcome, record_outcomes
from worker.pending_outcomes import PendingOutcomes

log = get_logger(__name__)


@dataclass(frozen=True)
class _Batch:
    """Jobs that were completed in one transaction, and the webhook deliveries that this created."""

    job_ids: Sequence[str]
    delivery_ids: Sequence[str]


class OutcomeRecorder:
    """Records the outcomes of one worker process."""

    def __init__(
        self,
        database: Database,
        policy: Policy,
        *,
        live: LiveLog,
        pending_outcomes: PendingOutcomes,
        task_queue: TaskQueue,
        notifier: Notifier,
        clock: Callable[[], datetime],
        jitter: Callable[[], float],
    ) -> None:
        self._database = database
        self._policy = policy
        self._live = live
        self._pending_outcomes = pending_outcomes
        self._task_queue = task_queue
        self._notifier = notifier
        self._clock = clock
        self._jitter = jitter
        self._batches = Batcher(self._record_batch)
        self.orphaned = OrphanedOutcomes(database, pending_outcomes, self._write, self._publish)

    def record(self, ended: EndedCall) -> None:
        """Return once the outcome is committed. If this greenlet is killed before, a file has the outcome."""
        emitted = self._live.close(ended.attempt)
        with self._pending_outcomes.until_recorded(ended, emitted):
            if not (can_batch(ended) and self._recorded_in_batch(ended, emitted)):
                self._record_alone(ended, emitted)

    def _recorded_in_batch(self, ended: EndedCall, emitted: LiveOutput | None) -> bool:
        try:
            batch = self._batches.do((ended, emitted))
        except (BatchFailed, StaleJob, *DATABASE_ERRORS) as error:
            log.info("batch not recorded", job_id=ended.job.id, error=str(error) or type(error).__name__)
            return False
        if batch is not None:
            self._notifier.ended(batch.job_ids, batch.delivery_ids)
        return True

    def _record_batch(self, calls: Sequence[tuple[EndedCall, LiveOutput | None]]) -> Sequence[_Batch | None]:
        """Record the calls. The first one is given the batch, to publish it while the next batch is recorded.

        A broker that hangs delays publishing for seconds, and no answer should wait for that.
        """
        ended = [each for each, _ in calls]
        with self._database.begin(within=TOGETHER_SECONDS) as tx:
            keep_rest(tx, [emitted for _, emitted in calls if emitted is not None])
            recorded, deliveries = record_outcomes(tx, ended)
        for outcome, call in zip(recorded, ended, strict=True):
            _log(outcome, call)
        return [_Batch([each.job.id for each in recorded], deliveries), *repeat(None, len(calls) - 1)]

    def _record_alone(self, ended: EndedCall, emitted: LiveOutput | None) -> None:
        def write(tx: Connection) -> RecordedOutcome | None:
            if emitted is not None and isinstance(ended.report.result, Answer):
                keep_rest(tx, [emitted])
            return self._write(tx, ended)

        recorded = commit_with_retry(self._database, write, job_id=ended.job.id)
        if recorded is None:
            log.info("attempt recorded", job_id=ended.job.id, attempt=ended.attempt.number, aborted=ended.aborted)
        else:
            self._publish(recorded, ended)

    def _write(self, tx: Connection, ended: EndedCall) -> RecordedOutcome | None:
        return record_outcome(tx, ended, self._policy, self._jitter())

    def _publish(self, recorded: RecordedOutcome, ended: EndedCall) -> None:
        job = recorded.job
        _log(recorded, ended)
        if job.status.is_terminal:
            self._notifier.ended([job.id], recorded.delivery_ids)
            if recorded.verb in {Verb.ADOPT, Verb.ADOPT_PARTIAL}:
                self._notifier.stop(job.id, job.attempt, AbortReason.SUPERSEDED)
        elif job.parked_until is None and job.available_at <= self._clock():
            self._task_queue.enqueue([job.id])


def _log(recorded: RecordedOutcome, ended: EndedCall) -> None:
    job, attempt = recorded.job, ended.attempt
    seconds = round((ended.ended_at - attempt.started_at).total_seconds(), 3)
    log.info(recorded.verb, job_id=job.id, attempt=attempt.number, status=job.status, seconds=seconds)
