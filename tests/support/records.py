"""Factories of specs, keys, workers and jobs. Jobs reach a status by the same verbs as real ones."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, RowMapping, Table, select

from jobs.errors import Billed, ErrorKind, Failure, StaleJob
from jobs.job import (
    Answer,
    Attempt,
    CallReport,
    Cost,
    CostSource,
    Job,
    JobSpec,
    OnUnknownOutcome,
    Outcome,
    Truncation,
    Usage,
)
from jobs.lifecycle import TRANSITIONS, Status, Verb
from jobs.store import api_keys, schema, workers
from jobs.store.attempts import begin_attempts, end_attempts, save_answers
from jobs.store.database import Database
from jobs.store.jobs import move, submit
from jobs.store.responses import get_job
from tests.support.clock import START, Clock

MODEL = "openai/o3-pro"
USAGE = Usage(input_tokens=11, output_tokens=22, total_tokens=33, cached_tokens=4, reasoning_tokens=5)
COST = Cost(1_250, CostSource.PROVIDER)
ANSWER = CallReport(
    Answer({"output": [{"type": "message", "content": [{"type": "output_text", "text": "Forty-two."}]}]}),
    http_status=200,
    raw=b'{"output_text": "Forty-two."}',
    provider_request_id="inf_1",
    provider_response_id="resp_theirs",
    provider_model="o3-pro-2025-06-10",
    usage=USAGE,
    cost=COST,
)
FAILURE = CallReport(Failure(ErrorKind.REJECTED, "Unsupported value.", 400), http_status=400)


def an_attempt(job_id: str, number: int) -> Attempt:
    """Return an attempt that has just begun, without a row."""
    return Attempt(
        job_id=job_id,
        number=number,
        api_key_id="key_1",
        model=MODEL,
        worker_id="wrk_1",
        started_at=START,
        ended_at=None,
        outcome=None,
        billed=Billed.UNKNOWN,
        truncation=Truncation.DISABLED,
        resumes=None,
        error_kind=None,
        error_message=None,
        http_status=None,
        provider_request_id=None,
        provider_response_id=None,
        usage=None,
        cost=None,
    )


def make_spec(api_key_id: str, **changes: Any) -> JobSpec:
    """Return a checked request with `changes`."""
    plain: dict[str, Any] = {
        "model": MODEL,
        "settings": {"model": MODEL},
        "input": "What is the answer?",
        "deadline_at": START + timedelta(days=1),
        "max_attempts": 5,
        "on_unknown_outcome": OnUnknownOutcome.RETRY,
        "truncation": Truncation.DISABLED,
        "background": True,
    }
    return JobSpec(api_key_id=api_key_id, **{**plain, **changes})


def make_key(database: Database, name: str = "a key", now: datetime = START) -> api_keys.ApiKey:
    """Create a key with every scope."""
    with database.begin() as tx:
        key, _secret = api_keys.create_key(tx, name, None, now)
    return key


def submit_one(tx: Connection, spec: JobSpec, now: datetime, *, enqueued: bool = False) -> Job:
    """Submit a single job."""
    [job] = submit(tx, [(spec, now, enqueued)])
    return job


def claim_one(tx: Connection, job_id: str, worker_id: str, now: datetime) -> tuple[Job, Attempt] | None:
    """Claim a single job. None if it cannot be claimed now."""
    try:
        begun = begin_attempts(tx, [job_id], worker_id, now)
    except StaleJob:
        return None
    return begun[0] if begun else None


def end_one(tx: Connection, attempt: Attempt, outcome: Outcome, now: datetime, report: CallReport) -> bool:
    """End a single attempt. False if it had reported before."""
    [is_first] = end_attempts(tx, [(attempt, outcome, report)], now)
    return is_first


def move_one(tx: Connection, verb: Verb, job: Job, now: datetime, **changes: Any) -> Job:
    """Move a single job, as an actor that may."""
    [moved], _ = move(tx, verb, [(job, changes)], now, by=min(TRANSITIONS[verb].actors))
    return moved


def pending_deliveries(tx: Connection, job_id: str) -> list[str]:
    """Return the ids of the deliveries that the job's end has created and nobody has claimed."""
    events = select(schema.webhook_events.c.id).where(schema.webhook_events.c.job_id == job_id)
    row = schema.webhook_deliveries.c
    return list(tx.execute(select(row.id).where(row.event_id.in_(events), schema.IS_PENDING)).scalars())


@dataclass
class Records:
    """Insert rows at the clock's time. Jobs belong to `key` and are claimed by `worker_id` by default."""

    database: Database
    clock: Clock
    key: api_keys.ApiKey = field(init=False)
    worker_id: str = field(init=False)

    def __post_init__(self) -> None:
        self.key = make_key(self.database, "the key", self.clock())
        self.worker_id = self.worker()

    def worker(self, concurrency: int = 10) -> str:
        with self.database.begin() as tx:
            return workers.register(tx, "a-host", 4711, concurrency, self.clock())

    def submit_job(self, key: api_keys.ApiKey | None = None, **changes: Any) -> Job:
        with self.database.begin() as tx:
            return submit_one(tx, make_spec((key or self.key).id, **changes), self.clock())

    def claim(self, job: Job, worker_id: str | None = None) -> tuple[Job, Attempt]:
        with self.database.begin() as tx:
            begun = claim_one(tx, job.id, worker_id or self.worker_id, self.clock())
        assert begun is not None, f"{job.id} cannot be claimed"
        return begun

    def move(self, verb: Verb, job: Job, **changes: Any) -> Job:
        with self.database.begin() as tx:
            return move_one(tx, verb, job, self.clock(), **changes)

    def end(self, job: Job, attempt: Attempt, verb: Verb, report: CallReport, **changes: Any) -> Job:
        """Close the call and move its job, in one transaction."""
        outcome = OUTCOMES[verb]
        with self.database.begin() as tx:
            end_one(tx, attempt, outcome, self.clock(), report)
            ended = move_one(tx, verb, job, self.clock(), **changes)
            save_answers(tx, [(ended, report)])
        return ended

    def job_in(self, status: Status, **changes: Any) -> Job:
        """Return a job that has reached `status` by the verbs of real ones."""
        job = _WAYS[status](self, self.submit_job(**changes))
        return self.reload(job)

    def reload(self, job: Job) -> Job:
        with self.database.read() as tx:
            return get_job(tx, job.id)

    def _in_progress(self, job: Job) -> Job:
        return self.claim(job)[0]

    def _completed(self, job: Job) -> Job:
        return self.end(*self.claim(job), Verb.COMPLETE, ANSWER)

    def _incomplete(self, job: Job) -> Job:
        return self.end(*self.claim(job), Verb.COMPLETE_PARTIAL, ANSWER, incomplete_reason="max_output_tokens")

    def _failed(self, job: Job) -> Job:
        error: dict[str, Any] = {
            "error_code": "provider_rejected",
            "error_kind": ErrorKind.REJECTED,
            "error_message": "Unsupported.",
        }
        return self.end(*self.claim(job), Verb.FAIL, FAILURE, failures=1, **error)

    def _cancelled(self, job: Job) -> Job:
        return self.move(Verb.CANCEL, job)


OUTCOMES = {
    Verb.COMPLETE: Outcome.COMPLETED,
    Verb.COMPLETE_PARTIAL: Outcome.INCOMPLETE,
    Verb.FAIL: Outcome.FAILED,
    Verb.RESCHEDULE: Outcome.FAILED,
    Verb.RELEASE: Outcome.RELEASED,
}
_WAYS: dict[Status, Callable[[Records, Job], Job]] = {
    Status.QUEUED: lambda _records, job: job,
    Status.IN_PROGRESS: Records._in_progress,
    Status.COMPLETED: Records._completed,
    Status.INCOMPLETE: Records._incomplete,
    Status.FAILED: Records._failed,
    Status.CANCELLED: Records._cancelled,
}


def snapshot(database: Database) -> dict[str, list[tuple[Any, ...]]]:
    """Return every row of the database, to show that nothing changed."""
    with database.read() as tx:
        return {
            table.name: [tuple(row) for row in tx.execute(select(table).order_by(*table.primary_key))]
            for table in schema.metadata.sorted_tables
        }


def rows_of(database: Database, table: Table, job: Job) -> list[RowMapping]:
    """Return the rows of `table` that belong to a job."""
    with database.read() as tx:
        return list(tx.execute(select(table).where(table.c.job_id == job.id)).mappings())
