"""Read jobs: one, a page of them, the position in the queue, and the counts for metrics.

What a client can read is scoped by its API key. Each read uses an index, whatever the number of rows.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from typing import Any, Final

from sqlalchemy import ColumnElement, Connection, Integer, Select, and_, bindparam, func, select, tuple_, union_all

from jobs.errors import JobNotFound
from jobs.ids import first_id_at
from jobs.job import Job
from jobs.lifecycle import Status
from jobs.store import schema
from jobs.store.column_types import AsciiId, UtcDateTime, any_of
from jobs.store.database import Database
from jobs.store.fair_scheduler import queued_groups
from jobs.store.metrics import count_waiting
from jobs.store.provider_limits import running_calls
from jobs.store.row_mapping import job_from

POSITION_LIMIT = 1_000
IDS_PER_QUERY = 500


@dataclass(frozen=True)
class ResponseDocument:
    """The full content of a response: the job, its request without the input, and its normalised answer."""

    job: Job
    settings: Mapping[str, Any]
    metadata: Mapping[str, str]
    answer: Mapping[str, Any] | None


@dataclass(frozen=True)
class Filters:
    """Conditions on the listed jobs of a key, all of which have to hold; `metadata` holds labels to match."""

    status: Status | None = None
    model: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ResponseSummary:
    """The state of a job that a poll compares before it loads the prompt and the answer."""

    id: str
    status: Status
    attempt: int
    created_at: datetime
    updated_at: datetime
    available_at: datetime
    started_at: datetime | None


def summaries(tx: Connection, pairs: Sequence[tuple[str, str]]) -> list[ResponseSummary | None]:
    """Return the summary of each (job id, key id) pair, in order; None if the key has no such job."""
    found = {}
    for api_key_id, *values in tx.execute(_SUMMARIES, {"ids": sorted({job_id for job_id, _ in pairs})}):
        job_id, status, *rest = values
        found[(job_id, api_key_id)] = ResponseSummary(job_id, Status(status), *rest)
    return [found.get(pair) for pair in pairs]


def get_job(tx: Connection, job_id: str, api_key_id: str | None = None) -> Job:
    """Return one job of the key; of any key if `api_key_id` is None.

    Raises:
        JobNotFound: the key has no such job.
    """
    query = _JOB if api_key_id is None else _JOB_OF_KEY
    found = tx.execute(query, {"of_id": job_id, "of_key": api_key_id}).mappings().one_or_none()
    if found is None:
        raise no_job(job_id)
    return job_from(found)


def get_response_document(tx: Connection, job_id: str, api_key_id: str) -> ResponseDocument:
    """Return one response with its full content.

    Raises:
        JobNotFound: the key has no such job.
    """
    [document] = get_documents(tx, [(job_id, api_key_id)])
    if document is None:
        raise no_job(job_id)
    return document


def get_documents(tx: Connection, pairs: Sequence[tuple[str, str]]) -> list[ResponseDocument | None]:
    """Return the response of each (job id, key id) pair, in order; None if the key has no such job."""
    ids, keys = {job_id for job_id, _ in pairs}, {key_id for _, key_id in pairs}
    rows = tx.execute(_DOCUMENTS, {"ids": sorted(ids), "keys": sorted(keys)}).mappings()
    found = {(document.job.id, document.job.api_key_id): document for document in map(_response_document_from, rows)}
    return [found.get(pair) for pair in pairs]


def no_job(job_id: str) -> JobNotFound:
    """Return the error for a job that the key does not have."""
    return JobNotFound(f"Response with id '{job_id}' not found.", "response_id")


def list_sizes(
    tx: Connection, api_key_id: str, filters: Filters, *, limit: int, after: str | None = None, ascending: bool = False
) -> tuple[list[tuple[str, int]], bool]:
    """Return a page of a key's responses, newest first, that begins after the id `after`, and whether more follow.

    The page holds ids, each with the stored bytes of its request and answer, because the contents of a page may be too
    large to be read at once. Both are ASCII, and PostgreSQL knows their lengths without reading them.
    """
    page = _page(api_key_id, filters, limit=limit + 1, after=after, ascending=ascending).subquery("page")
    request, answer = schema.requests.c, schema.answers.c
    length = func.length if tx.dialect.name == "sqlite" else func.octet_length
    size = length(request.settings, type_=Integer) + func.coalesce(length(answer.response, type_=Integer), 0)
    query = (
        select(page.c.id, size)
        .join(schema.requests, request.job_id == page.c.id)
        .outerjoin(schema.answers, answer.job_id == page.c.id)
    )
    found = sorted(((job_id, size) for job_id, size in tx.execute(query)), reverse=not ascending)
    return found[:limit], len(found) > limit


def _page(api_key_id: str, filters: Filters, *, limit: int, after: str | None, ascending: bool) -> Select[Any]:
    """Select only ids, so that a page is read from an index before any row is read.

    The limit is a literal, because a prepared plan that does not know it would expect a tenth of the table.
    """
    row = schema.jobs.c
    query = select(row.id).where(row.api_key_id == api_key_id)
    ids: list[ColumnElement[str]] = [row.id]
    for key, value in filters.metadata.items():
        label = schema.job_metadata.alias()
        matching = (label.c.api_key_id == api_key_id, label.c.key == key, label.c.value == value)
        query = query.join(label, and_(label.c.job_id == row.id, *matching))
        ids.append(label.c.job_id)
    if filters.status is not None:
        query = query.where(row.status == filters.status)
    if filters.model is not None:
        query = query.where(row.model == filters.model)
    for each in ids:  # the databases do not carry bounds over a join
        if filters.created_after is not None:
            query = query.where(each >= first_id_at("resp", filters.created_after))
        if filters.created_before is not None:
            query = query.where(each < first_id_at("resp", filters.created_before))
        if after is not None:
            query = query.where(each > after if ascending else each < after)
    order = ids[-1] if ascending else ids[-1].desc()
    size = bindparam("size", limit, Integer, literal_execute=True)
    return query.order_by(order).limit(size)


def get_request(tx: Connection, job_id: str) -> tuple[dict[str, Any], Any]:
    """Return the client's body without its input, and the input.

    Raises:
        JobNotFound: the job has been erased.
    """
    row = schema.requests.c
    found = tx.execute(select(row.settings, row.input).where(row.job_id == job_id)).one_or_none()
    if found is None:
        raise no_job(job_id)
    return found.settings, found.input


def queue_position(tx: Connection, job: Job) -> int | None:
    """Return the job's position among the due jobs of its key, from 1 to `POSITION_LIMIT`; None if it is not due.

    Jobs of other keys are not counted. The scheduler serves keys round-robin, and a tenant must not learn about the
    queue of another.
    """
    if job.status is not Status.QUEUED or job.blocked_by is not None or job.parked_until is not None:
        return None
    of_this = {"of_key": job.api_key_id, "due_at": job.available_at, "of_id": job.id}
    count: int = tx.execute(_ahead_of(job.priority), of_this).scalar_one()
    return count + 1


@cache
def _ahead_of(priority: int) -> Select[Any]:
    row = schema.jobs.c
    of_this_key = (
        select(row.id).where(schema.IS_QUEUED, row.api_key_id == bindparam("of_key")).limit(POSITION_LIMIT - 1)
    )
    this = (bindparam("due_at", type_=UtcDateTime), bindparam("of_id", type_=AsciiId))
    earlier = tuple_(row.available_at, row.id) < tuple_(*this, types=[UtcDateTime, AsciiId])
    branches = [of_this_key.where(row.priority == priority, earlier)]
    branches += [of_this_key.where(row.priority == higher) for higher in range(priority + 1, 10)]
    ahead = union_all(*(select(branch.subquery()) for branch in branches)).limit(POSITION_LIMIT - 1)
    return select(func.count()).select_from(ahead.subquery())


def count_open(tx: Connection) -> dict[Status, int]:
    """Return the numbers of queued and running jobs over all keys, which only the operator may see.

    A large number of queued jobs is PostgreSQL's estimate, as `count_waiting` explains.
    """
    queued = count_waiting(tx, schema.jobs, schema.IS_QUEUED, "ix_jobs_due")
    parked = count_waiting(tx, schema.jobs, schema.jobs.c.parked_until.is_not(None), "ix_jobs_parked")
    return {Status.QUEUED: queued + parked, Status.IN_PROGRESS: running_calls(tx)}


def oldest_due_at(tx: Connection) -> datetime | None:
    """Return the time since which the longest waiting job of any key has been due, for the operator."""
    due_at: datetime | None = tx.execute(select(func.min(queued_groups().c.available_at))).scalar_one()
    return due_at


def ended_among(database: Database, job_ids: Iterable[str]) -> set[str]:
    """Return the ids of those jobs that have ended or no longer exist."""
    ids = list({*job_ids})
    ended: set[str] = set()
    with database.read() as tx:
        for start in range(0, len(ids), IDS_PER_QUERY):
            chunk = ids[start : start + IDS_PER_QUERY]
            if tx.execute(_COUNT_OPEN, {"ids": chunk}).scalar_one() < len(chunk):
                ended |= {*chunk}.difference(tx.execute(_OPEN, {"ids": chunk}).scalars())
    return ended


_IS_OPEN: Final = (any_of(schema.jobs.c.id, "ids"), schema.jobs.c.completed_at.is_(None))
_OPEN: Final = select(schema.jobs.c.id).where(*_IS_OPEN)
_COUNT_OPEN: Final = select(func.count()).select_from(schema.jobs).where(*_IS_OPEN)


def _documents() -> Select[Any]:
    return (
        select(schema.jobs, schema.requests.c.settings, schema.answers.c.response)
        .join(schema.requests, schema.requests.c.job_id == schema.jobs.c.id)
        .outerjoin(schema.answers, schema.answers.c.job_id == schema.jobs.c.id)
    )


def _response_document_from(row: Any) -> ResponseDocument:
    settings = row["settings"]
    return ResponseDocument(job_from(row), settings, settings.get("metadata") or {}, row["response"])


def _summaries() -> Select[Any]:
    row = schema.jobs.c
    columns = (row.id, row.status, row.attempt, row.created_at, row.updated_at, row.available_at, row.started_at)
    return select(row.api_key_id, *columns).where(any_of(row.id, "ids"))


# built once, because building them takes longer than running them
_JOB: Final = select(schema.jobs).where(schema.jobs.c.id == bindparam("of_id"))
_JOB_OF_KEY: Final = _JOB.where(schema.jobs.c.api_key_id == bindparam("of_key"))
_SUMMARIES: Final = _summaries()
_DOCUMENTS: Final = _documents().where(any_of(schema.jobs.c.id, "ids"), any_of(schema.jobs.c.api_key_id, "keys"))
