"""A create that an SDK sends again by itself is given the job that it made the first time.

The SDKs send no key; `x-stainless-retry-count` above 0 is the only trace. Equal bodies alone prove nothing, for whoever
samples sends equal prompts on purpose. So a retry joins only a job whose own request lost its connection before its
answer was written, each such job once: docs/decisions/0032-joining-an-sdks-own-retry.md.
"""

import asyncio
import hashlib
from dataclasses import replace
from datetime import datetime, timedelta
from time import monotonic
from typing import Final

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from api.auth import Submitter
from api.dependencies import Parts
from api.sdk_retry.tracker import DEBT, Debt
from api.submit import Accepted, accept, is_held
from api.submit_batch import NotAccepted, Owing, Unconfirmed
from api.waiting import until_disconnected
from jobs.batching import NotBegun
from jobs.errors import CallerError, JobNotFound
from jobs.ids import new_id
from jobs.store.database import DATABASE_ERRORS, READ_SECONDS, database_now
from jobs.store.responses import get_document
from jobs.store.undelivered_creates import Sender, being_accepted, marks_of, take

RETRY_COUNT: Final = "x-stainless-retry-count"
NOTICED_WITHIN: Final = timedelta(seconds=1)
"""How long a living process may take to hear that a connection is gone and to write it down."""
LOOK_EVERY: Final = 0.1
PATIENCE: Final = 8.0


async def accept_once(
    request: Request, raw: bytes, parts: Parts, submitter: Submitter, idempotency_key: str | None
) -> Accepted:
    """Accept a job, or join the one that this request has made before; as `api.submit.accept`.

    Raises:
        ClientDisconnect: the client left before the job was accepted, and its SDK will send the request again.
        NotAccepted: nothing was written, and the request may be sent again.
        Unconfirmed: it is not known whether the job was made; one that was is there to be joined.
    """
    try:
        return await _accept_once(request, raw, parts, submitter, idempotency_key)
    except (*DATABASE_ERRORS, NotBegun) as error:  # of a read, as what is written says itself what came of it
        debt: Debt = request.scope[DEBT]
        debt.is_unknown = True  # an earlier try that was joined in the midst of it can be joined again
        raise NotAccepted("The database does not answer.") from error


async def _accept_once(
    request: Request, raw: bytes, parts: Parts, submitter: Submitter, idempotency_key: str | None
) -> Accepted:
    count = request.headers.get(RETRY_COUNT)
    if idempotency_key is not None or count is None:
        return await accept(raw, parts, submitter, idempotency_key)
    is_again = count.isascii() and count.isdigit() and count.strip("0") != ""  # of any length: int() has a limit
    sender = Sender(submitter.last_known.id, hashlib.sha256(raw).hexdigest(), new_id("req"), parts.owed.process_id)
    debt: Debt = request.scope[DEBT]
    debt.request_id = sender.request_id
    if is_again:
        await submitter.confirmed()
        joined = await _join(parts, sender)
        if joined is not None:
            await submitter.confirmed()  # the look may have taken seconds
            holds = is_held(joined.document.settings, background=joined.job.background)
            return replace(joined, hold=parts.holds.take_again(joined.job.api_key_id)) if holds else joined
    gone = asyncio.create_task(until_disconnected(request))
    try:
        return await accept(raw, parts, submitter, owing=Owing(sender, gone.done))
    except (CallerError, ClientDisconnect, NotAccepted):
        debt.request_id = None
        raise
    except Unconfirmed:
        debt.is_unknown = True
        raise
    finally:
        gone.cancel()


async def _join(parts: Parts, sender: Sender) -> Accepted | None:
    """The job of a lost create of the same body, if there is one.

    The retry may be here before the loss has been noted, and a process that was killed never notes it. So a create that
    somebody still seems to wait for is looked at until the process that serves it has been heard again, or counts as
    silent. And where any process is about to commit an equal one, as a database that is slow may take longer than
    an SDK waits, that one is waited for.
    """
    before = await run_in_threadpool(_being_accepted, parts, sender)
    until = monotonic() + PATIENCE
    while before and monotonic() < until:
        await asyncio.sleep(LOOK_EVERY)
        before &= await run_in_threadpool(_being_accepted, parts, sender)
    if before:  # as long as it may still be committed, another would buy twice
        raise NotAccepted("An earlier try of this request is still being written.")
    asked_at: datetime | None = None
    until = monotonic() + PATIENCE
    while True:
        found, asked_at, certain = await run_in_threadpool(_look, parts, sender, asked_at)
        if found is not None or certain or monotonic() > until:
            return found
        await asyncio.sleep(LOOK_EVERY)


def _being_accepted(parts: Parts, sender: Sender) -> frozenset[str]:
    database = parts.database
    with database.begin() if database.is_sqlite else database.read(within=READ_SECONDS) as tx:
        return being_accepted(tx, sender)


def _look(parts: Parts, sender: Sender, asked_at: datetime | None) -> tuple[Accepted | None, datetime, bool]:
    with parts.database.read(within=READ_SECONDS) as tx:
        now = database_now(tx)
        asked_at = asked_at or now
        marks = marks_of(tx, sender, asked_at, now)
    for mark in marks:
        if not (mark.lost or parts.owed.is_lost(mark.request_id)):
            continue
        with parts.database.begin() as tx:
            taken = take(tx, mark, sender, database_now(tx))
        if taken:
            try:
                with parts.database.read(within=READ_SECONDS) as tx:
                    document = get_document(tx, mark.job_id, sender.api_key_id)
            except JobNotFound:  # deleted within this instant
                continue
            return Accepted(document.job, document), asked_at, True
    held = [mark for mark in marks if not mark.lost and mark.since <= asked_at]
    return None, asked_at, all(mark.heard_at >= asked_at + NOTICED_WITHIN for mark in held)
