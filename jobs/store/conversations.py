"""Chains of responses: each names the one that it follows, and together they are a conversation.

A chain may be as deep as it likes: it is walked by one recursive query, in the database. It is looked at when a
follow-up is accepted, when it is claimed, and by `worker.maintenance.follow_ups`, which alone decides about one that
waits; so a response that is erased in between is noticed, and nothing rests on what a process remembers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import CTE, Connection, Integer, Select, and_, bindparam, func, literal, select, update

from jobs.conversation import Turn
from jobs.errors import ChainBroken
from jobs.job import Attempt, Job
from jobs.lifecycle import Status
from jobs.store import schema
from jobs.store.row_mapping import job_from

ANSWERED = frozenset({Status.COMPLETED, Status.INCOMPLETE})
MOST_BYTES = 32 * 1024 * 1024
"""How large the earlier turns of a conversation may be together, as they are kept: a worker holds them all in memory at
a call, beside a hundred others. It is far above what any model reads as text."""


@dataclass(frozen=True)
class Waiting:
    """A follow-up whose wait is over: what it waited for has ended, or is gone. `run_at` is in unix seconds."""

    job: Job
    run_at: float | None


def check_chain(tx: Connection, response_id: str, api_key_id: str) -> bool:
    """Whether a follow-up to this response has to wait for it.

    Raises:
        ChainBroken: it, or one before it, is gone, another key's, or has ended without an answer; or all of them
            together are larger than `MOST_BYTES`. Turns never change once they have ended, so who has been let
            through here is not asked again.
    """
    row = schema.jobs.c
    query = select(row.status, row.error_message).where(row.id == response_id, row.api_key_id == api_key_id)
    found = tx.execute(query).one_or_none()
    if found is None:
        raise ChainBroken(f"Previous response with id '{response_id}' not found.", response_id)
    status = Status(found.status)
    if status.is_terminal and status not in ANSWERED:
        raise _unanswered(response_id, status, found.error_message)
    missing = missing_link(tx, response_id, api_key_id)
    if missing is not None:
        raise _missing(response_id, missing)
    size = _kept_bytes(tx, response_id, api_key_id)
    if size > MOST_BYTES:
        raise ChainBroken(
            f"The conversation up to response '{response_id}' is too large to be sent again ({size} bytes of"
            f" {MOST_BYTES}). Begin a new one with what still matters.",
            response_id,
            "context_length_exceeded",
        )
    return not status.is_terminal


def missing_link(tx: Connection, response_id: str, api_key_id: str) -> str | None:
    """The first response of a chain that is named and not there; None when all are."""
    chain = _chain(response_id, api_key_id)
    deepest = select(chain.c.previous_response_id).order_by(chain.c.depth.desc()).limit(1)
    found = tx.execute(deepest).one_or_none()
    missing: str | None = response_id if found is None else found.previous_response_id
    return missing


def _kept_bytes(tx: Connection, response_id: str, api_key_id: str) -> int:
    """How large the inputs and answers of a chain are together. All are ASCII, and none is read on PostgreSQL."""
    chain = _chain(response_id, api_key_id)
    request, answer = schema.requests, schema.answers
    length = func.length if tx.dialect.name == "sqlite" else func.octet_length
    sizes = length(request.c.input) + func.coalesce(length(answer.c.response), 0)
    query = (
        select(func.coalesce(func.sum(sizes), 0))
        .select_from(chain)
        .join(request, request.c.job_id == chain.c.id)
        .outerjoin(answer, answer.c.job_id == chain.c.id)
    )
    return int(tx.execute(query).scalar_one())


def read_turns(tx: Connection, response_id: str, api_key_id: str) -> list[Turn]:
    """Every turn of a chain, oldest first.

    Raises:
        ChainBroken: one of them is gone.
    """
    turns, missing = read_what_is_left(tx, response_id, api_key_id)
    if missing is not None:
        raise _missing(response_id, missing)
    return turns


def read_what_is_left(tx: Connection, response_id: str, api_key_id: str) -> tuple[list[Turn], str | None]:
    """The turns of a chain back to the first that is gone, oldest first, and which that is."""
    chain = _chain(response_id, api_key_id)
    request, answer = schema.requests, schema.answers
    query = (
        select(chain.c.id, chain.c.previous_response_id, request.c.input, request.c.credentials, answer.c.response)
        .join(request, request.c.job_id == chain.c.id)
        .outerjoin(answer, answer.c.job_id == chain.c.id)
        .order_by(chain.c.depth.desc())
    )
    rows = tx.execute(query).all()
    turns = [Turn(row.id, row.input, output_of(row.response), row.credentials) for row in rows]
    return turns, rows[0].previous_response_id if rows else response_id


def chain_ids(tx: Connection, response_id: str, api_key_id: str) -> set[str]:
    """The ids of a chain's responses, as far as they are there."""
    return set(tx.execute(select(_chain(response_id, api_key_id).c.id)).scalars())


def await_again(tx: Connection, job: Job) -> None:
    """Let a queued follow-up wait: what it rests upon has to be looked at before it may run."""
    row = schema.jobs.c
    this = update(schema.jobs).where(row.id == job.id, row.attempt == job.attempt, row.status == Status.QUEUED)
    tx.execute(this.values(blocked_by=job.previous_response_id, available_at=job.deadline_at, enqueued_at=None))


def done_waiting(tx: Connection, limit: int) -> list[Waiting]:
    """Follow-ups whose wait is over."""
    found = tx.execute(_DONE_WAITING, {"most": limit}).mappings()
    return [Waiting(job_from(each), each["settings"].get("run_at")) for each in found]


def _done_waiting() -> Select[Any]:
    row, before = schema.jobs.c, schema.jobs.alias("before")
    open_one = select(literal(1)).where(before.c.id == row.blocked_by, before.c.completed_at.is_(None)).exists()
    return (
        select(schema.jobs, schema.requests.c.settings)
        .join(schema.requests, schema.requests.c.job_id == row.id)
        .where(row.blocked_by.is_not(None), ~open_one)
        .order_by(row.blocked_by)
        .limit(bindparam("most", type_=Integer))
    )


_DONE_WAITING: Final = _done_waiting()


def let_run(tx: Connection, job: Job, now: datetime, available_at: datetime) -> bool:
    """End a follow-up's wait, if it still waits as `job` describes it; it is due at `available_at`."""
    row = schema.jobs.c
    same = (row.id == job.id, row.attempt == job.attempt, row.status == Status.QUEUED, row.blocked_by == job.blocked_by)
    values = {"blocked_by": None, "available_at": available_at, "enqueued_at": None, "updated_at": now}
    return tx.execute(update(schema.jobs).where(*same).values(values)).rowcount == 1


def note_sent(tx: Connection, attempt: Attempt, responses: int, items: int, now: datetime) -> None:
    """Keep how much of its conversation a call is given."""
    row = schema.jobs.c
    this = update(schema.jobs).where(row.id == attempt.job_id, row.attempt == attempt.number)
    tx.execute(this.values(sent_responses=responses, sent_items=items, updated_at=now))


def still_needed() -> Select[Any]:
    """The ids of all responses that an open follow-up rests upon, as a query.

    Walked upwards from the follow-ups that are open, by one index probe each; each response counts once.
    """
    row = schema.jobs.c
    start = select(row.previous_response_id.label("id")).where(
        row.previous_response_id.is_not(None), row.completed_at.is_(None)
    )
    needed = start.cte("needed", recursive=True)
    earlier = schema.jobs.alias("earlier")
    before = select(earlier.c.previous_response_id).where(earlier.c.id == needed.c.id).scalar_subquery()
    needed = needed.union(select(before).where(needed.c.id.is_not(None)))
    return select(needed.c.id).where(needed.c.id.is_not(None))


def _chain(response_id: str, api_key_id: str) -> CTE:
    row = schema.jobs.c
    first = select(row.id, row.previous_response_id, literal(0).label("depth"))
    chain = first.where(row.id == response_id, row.api_key_id == api_key_id).cte("chain", recursive=True)
    earlier = schema.jobs.alias("earlier")
    on = and_(earlier.c.id == chain.c.previous_response_id, earlier.c.api_key_id == api_key_id)
    return chain.union_all(select(earlier.c.id, earlier.c.previous_response_id, chain.c.depth + 1).join(chain, on))


def output_of(response: Any) -> Sequence[dict[str, Any]]:
    """The output items of an answer as it is kept, if there is one."""
    output = (response or {}).get("output")
    return [item for item in output if isinstance(item, dict)] if isinstance(output, list) else []


def _unanswered(response_id: str, status: Status, reason: str | None) -> ChainBroken:
    message = f"Previous response with id '{response_id}' is {status} and has no answer to go on from."
    if reason:
        message += f" It failed: {reason}"
    return ChainBroken(message, response_id, "previous_response_failed")


def _missing(response_id: str, missing: str) -> ChainBroken:
    if missing == response_id:
        return ChainBroken(f"Previous response with id '{missing}' not found.", missing)
    return ChainBroken(
        f"Previous response with id '{response_id}' cannot be gone on from: '{missing}', which came before it in the"
        " conversation, has been erased.",
        missing,
    )
