"""Find output items by their ids, for requests that refer to one.

The provider makes the ids, which need not be unique. If several responses of a key hold an id, the latest one counts.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Select, bindparam, delete, func, select

from jobs.errors import RequestInvalid
from jobs.job import Job
from jobs.store import schema
from jobs.store.bulk import insert_all
from jobs.store.column_types import any_of
from jobs.store.conversations import MOST_BYTES, output_of

_USABLE: Final = re.compile(r"[!-~]{1,255}")
"""Ids that both databases can index. An item with another id is stored but cannot be found by it."""


@dataclass(frozen=True)
class ItemHolder:
    """The response that holds an item, and its whole output in order."""

    response_id: str
    output: Sequence[Mapping[str, Any]]


def store_items(tx: Connection, answers: Sequence[tuple[Job, Mapping[str, Any]]]) -> None:
    """Store the item ids of answers, in place of those of an earlier answer of the same job."""
    retried = [job.id for job, _ in answers if job.attempt > 1]
    if retried:
        tx.execute(delete(schema.output_items).where(any_of(schema.output_items.c.job_id, retried)))
    rows = [
        {"job_id": job.id, "item_id": item_id, "api_key_id": job.api_key_id}
        for job, response in answers
        for item_id in dict.fromkeys(item.get("id") for item in output_of(response))
        if is_usable(item_id)
    ]
    if rows:
        insert_all(tx, schema.output_items, rows)


def is_usable(item_id: object) -> bool:
    """Return whether an item can be found by this id."""
    return isinstance(item_id, str) and _USABLE.fullmatch(item_id) is not None


def find_items(tx: Connection, api_key_id: str, item_ids: Collection[str]) -> dict[str, ItemHolder]:
    """Return the response of the key that holds each item. Items that no response holds are left out.

    Raises:
        RequestInvalid: the answers that hold them are together larger than `MOST_BYTES`.
    """
    answer = schema.answers.c
    holders: dict[str, str] = {}
    for item_id in filter(is_usable, item_ids):
        job_id = tx.execute(_HOLDER, {"of_key": api_key_id, "of_item": item_id}).scalar()
        if job_id is not None:
            holders[item_id] = job_id
    if not holders:
        return {}
    these = any_of(answer.job_id, sorted(set(holders.values())))
    length = func.length if tx.dialect.name == "sqlite" else func.octet_length
    size = tx.execute(select(func.coalesce(func.sum(length(answer.response)), 0)).where(these)).scalar_one()
    if size > MOST_BYTES:
        message = f"The answers that hold the referenced items are too large together ({size} bytes of {MOST_BYTES})."
        raise RequestInvalid(message, "input", "context_length_exceeded")
    outputs = {
        job_id: output_of(response)
        for job_id, response in tx.execute(select(answer.job_id, answer.response).where(these))
    }
    return {
        item_id: ItemHolder(job_id, outputs[job_id])
        for item_id, job_id in holders.items()
        if any(item.get("id") == item_id for item in outputs.get(job_id, ()))
    }


def _holder() -> Select[Any]:
    row = schema.output_items.c
    this = (row.api_key_id == bindparam("of_key"), row.item_id == bindparam("of_item"))
    return select(row.job_id).where(*this).order_by(row.job_id.desc()).limit(1)


_HOLDER: Final = _holder()
