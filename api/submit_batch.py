"""The way of checked requests into the database: concurrent ones share a transaction, each answered after its commit.

One bad request never fails its neighbours: a batch that fails is written one by one, unless it was the database
itself that failed. Who waits for what another session has locked waits apart from the others.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from time import monotonic
from typing import Final

from fastapi.concurrency import run_in_threadpool
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.requests import ClientDisconnect

from api.auth import Submitter, allow
from api.held_limit import Hold
from jobs.batching import AsyncBatcher, NotBegun
from jobs.clock import STEP
from jobs.errors import CallerError
from jobs.job import Job, JobSpec
from jobs.queue_capacity import QueueCapacity
from jobs.store.api_keys import ApiKey, Scope, find_keys
from jobs.store.database import DATABASE_ERRORS, LOCK_ERRORS, CommitUnknown, Database, is_locked, sqlstate_of
from jobs.store.idempotency import Idempotency, remember
from jobs.store.jobs import submit
from jobs.store.undelivered_creates import Sender, announce_submit, insert_undelivered_creates
from jobs.task_queue import TaskQueue

ENDED_BY_A_ROW: Final = (*LOCK_ERRORS, "54")
"""SQLSTATEs of a lock, and of a limit that a value exceeds: the server answers, and has written nothing."""
WRITE_SECONDS: Final = 6.0
"""How long one transaction may take: no client waits for ten seconds for what another's request is stuck in."""
AT_ONCE_SECONDS: Final = 1.0
LOCK_SECONDS: Final = 3.0
"""How long a request waits for what another session has locked; it may be sent again."""
APART_SECONDS: Final = 5.0
MOST_LOCKED: Final = 8
"""Keys, of one batch, that meet a lock before the rest is taken to meet it as well."""
WRITTEN_WITHIN: Final = timedelta(minutes=1)
"""After its check, of any request that is written at all."""
BROKER_SECONDS: Final = 0.25
"""How long a request waits for a broker that does not answer; the dispatcher rings for it later."""


@dataclass(frozen=True)
class Owing:
    """Who is to be told of a job, noted together with it; `has_left` once nobody is there to hear of it."""

    sender: Sender
    has_left: Callable[[], bool]


@dataclass(frozen=True)
class PendingSubmit:
    """A checked request and what is written down together with its job; its deadline counts from `at`.

    One that `is_large` has a transaction of its own, so that nobody waits for its bytes to be written.
    """

    submitter: Submitter
    spec: JobSpec
    at: datetime
    is_large: bool
    idempotency: Idempotency | None = None
    owing: Owing | None = None
    hold: Hold | None = None

    @property
    def client_has_left(self) -> bool:
        """Whether it is not to be written any more."""
        return self.owing is not None and self.owing.has_left()

    @property
    def is_due(self) -> bool:
        """Whether its job may run at once."""
        return not self.spec.waits and (self.spec.run_at is None or self.spec.run_at <= self.at)


class NotSubmitted(Exception):
    """A job was not made, and nothing was written: the request may be sent again."""


class UnconfirmedSubmit(Exception):
    """Whether the job `job_id` was made is not known: no answer came to its commit."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"{job_id} may have been accepted")
        self.job_id = job_id


class SubmitBatcher:
    """Accepts jobs and rings their bells, for the handlers of one event loop."""

    def __init__(self, database: Database, task_queue: TaskQueue, queue_capacity: QueueCapacity) -> None:
        self._database = database
        self._task_queue = task_queue
        self._queue_capacity = queue_capacity
        self.writes = AsyncBatcher(self._write_all)
        self._apart = AsyncBatcher(self._write_all)
        self._apart_until: dict[str, float] = {}
        self._enqueues = AsyncBatcher(self._enqueue_all)
        self._look: asyncio.Task[None] | None = None
        self._looked_at = 0.0

    async def accept(self, order: PendingSubmit) -> Job:
        """Make the job; it is durable once this returns, whether or not the bell was heard.

        Raises:
            KeyRefused: the key has been revoked.
            NotAllowed: it no longer has the scope.
            DuplicateRequest: another request was first under its idempotency key.
            ClientDisconnect: its client has left, and nothing was made.
            NotSubmitted: the database is away or locked, and nothing was made.
            Unconfirmed: the database went away over the commit.
        """
        if order.is_due:
            await self._know_room()
        job = await self._write(order)
        if job.enqueued_at is not None:
            ringing = asyncio.ensure_future(self._enqueues.do(job.id))
            await asyncio.wait({ringing}, timeout=BROKER_SECONDS)
        return job

    async def _know_room(self) -> None:
        if self._look is None and self._queue_capacity.is_stale:
            self._looked_at = monotonic()
            self._look = asyncio.create_task(run_in_threadpool(self._queue_capacity.refresh))
            self._look.add_done_callback(self._looked)
        left = self._looked_at + BROKER_SECONDS - monotonic()
        if self._look is not None and left > 0:
            await asyncio.wait({self._look}, timeout=left)

    def _looked(self, look: "asyncio.Task[None]") -> None:
        self._look = None
        if not look.cancelled():
            look.exception()  # a database that is away is told by the write

    async def _write(self, order: PendingSubmit) -> Job:
        key, until = order.submitter.last_known.id, monotonic() + LOCK_SECONDS
        while True:
            try:
                if order.is_large:
                    return await self._write_own(order)
                return await (self._apart if self._waits_apart(key) else self.writes).do(order)
            except (*DATABASE_ERRORS, NotBegun) as error:
                if not is_locked(error):
                    raise NotSubmitted("The database does not answer.") from error
                self._apart_until[key] = monotonic() + APART_SECONDS
                if monotonic() > until:
                    raise NotSubmitted("Another session has locked what this needs in the database.") from error

    def _waits_apart(self, key: str) -> bool:
        """Whether what this key needs was locked just now."""
        until = self._apart_until.get(key)
        if until is not None and until < monotonic():
            del self._apart_until[key]
            return False
        return until is not None

    async def _write_own(self, order: PendingSubmit) -> Job:
        (outcome,) = await run_in_threadpool(self._write_all, [order])
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def _write_all(self, orders: Sequence[PendingSubmit], *, hurried: bool = False) -> list[Job | Exception]:
        try:
            return self._commit_on_any(orders, hurried=hurried)
        except ClientDisconnect:  # those who left in the midst of it are now left out from the start
            return self._write_all(orders, hurried=hurried)
        except Exception as error:
            if _is_the_databases(error):
                raise
            if len(orders) == 1:
                return [error]
            return self._write_each(orders)

    def _write_each(self, orders: Sequence[PendingSubmit]) -> list[Job | Exception]:
        outcomes: list[Job | Exception] = []
        locked: dict[str, Exception] = {}
        for order in orders:
            key = order.submitter.last_known.id
            met = next(iter(locked.values())) if len(locked) >= MOST_LOCKED else locked.get(key)
            if met is not None:
                outcomes.append(met)
                continue
            try:
                [outcome] = self._write_all([order], hurried=True)
            except DATABASE_ERRORS as error:  # what was committed before stays; the rest need not wait in vain, too
                return outcomes + [error] * (len(orders) - len(outcomes))
            outcomes.append(outcome)
            if isinstance(outcome, Exception) and is_locked(outcome):
                locked[key] = outcome
        return outcomes

    def _commit_on_any(self, orders: Sequence[PendingSubmit], *, hurried: bool) -> list[Job | Exception]:
        """Commit; once more where the connection was broken before, as nothing was written over it."""
        began_at = monotonic()
        try:
            return self._commit(orders, hurried=hurried)
        except DBAPIError as error:
            if not error.connection_invalidated or monotonic() - began_at > AT_ONCE_SECONDS:
                raise
        return self._commit(orders, hurried=hurried)

    def _commit(self, orders: Sequence[PendingSubmit], *, hurried: bool) -> list[Job | Exception]:
        reasons: Sequence[Exception | None] = ()
        made: Sequence[Job] = ()
        unconfirmed: Sequence[UnconfirmedSubmit] = ()
        try:
            # a request whose client has left is not written: else it and the one that is sent again would both buy
            with self._database.begin(within=WRITE_SECONDS, hurried=hurried) as tx:
                # before the look: who comes as a retry later than this can see it
                announce_submit(tx, [order.owing.sender for order in orders if order.owing])
                keys = find_keys(tx, (order.submitter.sha256 for order in orders))
                reasons = [_reason_against(order, keys) for order in orders]
                awaited = [order for order, reason in zip(orders, reasons, strict=True) if reason is None]
                made = self._submit(tx, awaited)
        except CommitUnknown:
            unconfirmed = [UnconfirmedSubmit(job.id) for job in made]
        outcomes: Iterator[Job | Exception] = iter(unconfirmed or made)
        return [reason or next(outcomes) for reason in reasons]

    def _submit(self, tx: Connection, orders: Sequence[PendingSubmit]) -> list[Job]:
        if not orders:
            return []
        now = self._database.clock()
        orders = [_as_of(order, now) for order in orders]
        places = self._queue_capacity.reserve(sum(order.is_due for order in orders))
        entries = []
        for order in orders:
            enqueued = places > 0 and order.is_due
            places -= enqueued
            entries.append((order.spec, order.at, enqueued))
        jobs = submit(tx, entries)
        made = list(zip(orders, jobs, strict=True))
        remember(tx, [(order.idempotency, job) for order, job in made if order.idempotency])
        if any(order.client_has_left for order in orders):
            raise ClientDisconnect
        insert_undelivered_creates(tx, [(order.owing.sender, job) for order, job in made if order.owing])
        return jobs

    def _enqueue_all(self, job_ids: Sequence[str]) -> list[None]:
        self._task_queue.enqueue(job_ids)
        return [None] * len(job_ids)


def _as_of(order: PendingSubmit, now: datetime) -> PendingSubmit:
    """The order; as of `now` where the time was set since it was checked, so that its deadline is as far off as ever.

    Only SQLite's time is set for all processes in one moment, and only known to all of them in their next transaction.
    """
    since = now - order.at
    if -STEP <= since <= WRITTEN_WITHIN:
        return order
    return replace(order, at=now, spec=replace(order.spec, deadline_at=order.spec.deadline_at + since))


def _reason_against(order: PendingSubmit, keys: Mapping[str, ApiKey]) -> Exception | None:
    if order.client_has_left:
        return ClientDisconnect()
    try:
        allow(order.submitter.still(keys.get(order.submitter.sha256)), Scope.RESPONSES_WRITE)
    except CallerError as error:
        return error
    return None


def _is_the_databases(error: Exception) -> bool:
    """Whether it fails the whole batch: to try each request alone would only make them wait, or buy twice.

    What a lost connection leaves unknown is among it. A row too large and a deadlock have ended only this transaction.
    """
    if isinstance(error, (OperationalError, InterfaceError)):
        return not sqlstate_of(error).startswith(ENDED_BY_A_ROW)
    return isinstance(error, PoolTimeoutError)
