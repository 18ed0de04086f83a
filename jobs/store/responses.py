"""Every read of jobs: one, a page, where it stands in the queue, and what was used.

All are scoped by API key; each is answered from an index however many rows there are.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Connection,
    Integer,
    Select,
    and_,
    bindparam,
    func,
    select,
    tuple_,
    union_all,
)

from jobs.errors import JobNotFound
from jobs.ids import first_id_at
from jobs.job import Job
from jobs.lifecycle import Status
from jobs.store import schema
from jobs.store.column_types import AsciiId, UtcDateTime, any_of
from jobs.store.database import Database
from jobs.store.fair_scheduler import queued_groups
from jobs.store.metrics import count_waiting
from jobs.store.provider_limits import calls_out
from jobs.store.row_mapping import job_from

POSITION_LIMIT = 1_000
IDS_PER_QUERY = 500


@dataclass(frozen=True)
class ResponseDocument:
    """All that a response is made of: the job, its request without the input, and its normalised answer."""

    job: Job
    settings: Mapping[str, Any]
    metadata: Mapping[str, str]
    answer: Mapping[str, Any] | None


@dataclass(frozen=True)
class Filters:
    """Which of a key's jobs to list; `metadata` holds labels that all have to match."""

    status: Status | None = None
    model: str | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ResponseSummary:
    """Where a job stands: what a poll goes by before it loads prompt and answer."""

    id: str
    status: Status
    attempt: int
    created_at: datetime
    updated_at: datetime
    available_at: datetime
    started_at: datetime | None


def summaries(tx: Connection, pairs: Sequence[tuple[str, str]]) -> list[ResponseSummary | None]:
    """Where the job of each pair of its id and its key's id stands; None where there is none, or it is another's."""
    found = {}
    for api_key_id, *values in tx.execute(_SUMMARIES, {"ids": sorted({job_id for job_id, _ in pairs})}):
        job_id, status, *rest = values
        found[(job_id, api_key_id)] = ResponseSummary(job_id, Status(status), *rest)
    return [found.get(pair) for pair in pairs]


def get_job(tx: Connection, job_id: str, api_key_id: str | None = None) -> Job:
    """One job, if it belongs to the key (None: whoever it belongs to).

    Raises:
        JobNotFound: there is none, or it is another's.
    """
    query = _JOB if api_key_id is None else _JOB_OF_KEY
    found = tx.execute(query, {"of_id": job_id, "of_key": api_key_id}).mappings().one_or_none()
    if found is None:
        raise no_job(job_id)
    return job_from(found)


def get_response_document(tx: Connection, job_id: str, api_key_id: str) -> ResponseDocument:
    """One response with all its parts.

    Raises:
        JobNotFound: there is none, or it is another's.
    """
    [document] = get_documents(tx, [(job_id, api_key_id)])
    if document is None:
        raise no_job(job_id)
    return document


def get_documents(tx: Connection, pairs: Sequence[tuple[str, str]]) -> list[ResponseDocument | None]:
    """The response of each pair of its id and its key's id; None where there is none, or it is another's."""
    ids, keys = {job_id for job_id, _ in pairs}, {key_id for _, key_id in pairs}
    rows = tx.execute(_THESE_DOCUMENTS, {"ids": sorted(ids), "keys": sorted(keys)}).mappings()
    found = {(document.job.id, document.job.api_key_id): document for document in map(_response_document_from, rows)}
    return [found.get(pair) for pair in pairs]


def no_job(job_id: str) -> JobNotFound:
    """There is no such job, or it is another's."""
    return JobNotFound(f"Response with id '{job_id}' not found.", "response_id")


def list_sizes(
    tx: Connection, api_key_id: str, filters: Filters, *, limit: int, after: str | None = None, ascending: bool = False
) -> tuple[list[tuple[str, int]], bool]:
    """A page of a key's responses, newest first, beginning behind the id `after`; and whether more follow.

    Ids alone, each with the bytes that its request and its answer are kept in: together they may be too large to be
    read at once. All are ASCII, and PostgreSQL knows their lengths without reading them.
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
    """The ids alone, so that a page is read off an index before any row is looked at.

    The limit is written into the query: a prepared plan that does not know it would expect a tenth of the table.
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
    for each in ids:  # bounds are not carried from one index to the other
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
    """What was asked: the client's body without its input, and the input.

    Raises:
        JobNotFound: the job has been erased.
    """
    row = schema.requests.c
    found = tx.execute(select(row.settings, row.input).where(row.job_id == job_id)).one_or_none()
    if found is None:
        raise no_job(job_id)
    return found.settings, found.input


def queue_position(tx: Connection, job: Job) -> int | None:
    """How many due jobs of the same key go before this one, plus one; counted up to `POSITION_LIMIT`.

    Among one key's own jobs only: keys take turns, and what others have queued is not a tenant's to know.
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
    """How many jobs are queued and in progress, over all keys (for the operator, never for a tenant).

    Of many queued ones PostgreSQL's own estimate: see `count_waiting`.
    """
    queued = count_waiting(tx, schema.jobs, schema.IS_QUEUED, "ix_jobs_due")
    parked = count_waiting(tx, schema.jobs, schema.jobs.c.parked_until.is_not(None), "ix_jobs_parked")
    return {Status.QUEUED: queued + parked, Status.IN_PROGRESS: calls_out(tx)}


def oldest_due_at(tx: Connection) -> datetime | None:
    """Since when the longest waiting queued job has been due, over all keys (for the operator)."""
    moment: datetime | None = tx.execute(select(func.min(queued_groups().c.available_at))).scalar_one()
    return moment


def ended_among(database: Database, job_ids: Iterable[str]) -> set[str]:
    """Which of these jobs have ended, or are gone."""
    ids = list({*job_ids})
    ended: set[str] = set()
    with database.read() as tx:
        for start in range(0, len(ids), IDS_PER_QUERY):
            chunk = ids[start : start + IDS_PER_QUERY]
            if tx.execute(_HOW_MANY_OPEN, {"ids": chunk}).scalar_one() < len(chunk):
                ended |= {*chunk}.difference(tx.execute(_OPEN, {"ids": chunk}).scalars())
    return ended


_IS_OPEN: Final = (any_of(schema.jobs.c.id, "ids"), schema.jobs.c.completed_at.is_(None))
_OPEN: Final = select(schema.jobs.c.id).where(*_IS_OPEN)
_HOW_MANY_OPEN: Final = select(func.count()).select_from(schema.jobs).where(*_IS_OPEN)


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


# built once, which takes longer than to run them
_JOB: Final = select(schema.jobs).where(schema.jobs.c.id == bindparam("of_id"))
_JOB_OF_KEY: Final = _JOB.where(schema.jobs.c.api_key_id == bindparam("of_key"))
_SUMMARIES: Final = _summaries()
_THESE_DOCUMENTS: Final = _documents().where(
    any_of(schema.jobs.c.id, "ids"),
    any_of(schema.jobs.c.api_key_id, "keys"),
)
