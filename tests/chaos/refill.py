"""A flushed broker: jobs wait while the provider is paused, and then all messages are lost at once."""

import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Final

import httpx
from sqlalchemy import delete, func, insert, select, update

from jobs.errors import ErrorKind
from jobs.settings import load_settings
from jobs.store import schema
from jobs.store.database import Database
from jobs.store.overdue_jobs import OVERDUE
from tests.chaos.clients import Clients, Seen
from tests.chaos.plan import CONCURRENCY, MODEL, PlannedJob
from tests.chaos.world import World
from tests.support.waiting import await_until

WAITING: Final = CONCURRENCY
SETTLE_SECONDS: Final = 40


@dataclass(frozen=True)
class Refill:
    """Jobs that waited when the messages were lost, and the longest time in which free slots began none of them."""

    jobs: int
    seconds: float


def refill_after_flush(world: World, clients: Clients, threads: ThreadPoolExecutor) -> Refill:
    """Pause the provider, let jobs wait, flush the broker, resume, and measure how soon they run on free slots."""
    world.change_provider(chaos=0)
    provider_limit = load_settings(provider_base_url=world.provider_base_url, data_dir="unused").provider_name
    database = Database(world.database_url)
    try:
        _await_rest(database)
        now = datetime.now(UTC)
        closed = {"paused_at": now, "pause_kind": ErrorKind.OUT_OF_CREDIT, "probe_at": now + timedelta(hours=1)}
        with database.begin() as tx:
            tx.execute(delete(schema.provider_limits))
            tx.execute(insert(schema.provider_limits).values(name=provider_limit, probes=0, **closed))
        waiting = _submit(clients, threads)
        _let_them_be_overdue(database, clients.seen, waiting)
        world.valkey.flush()
        with database.begin() as tx:
            tx.execute(delete(schema.provider_limits))
        opened_at = datetime.now(UTC)
        clients.drain(SETTLE_SECONDS)
        row = schema.attempts.c
        with database.read() as tx:
            started = select(row.started_at).where(row.job_id.in_(waiting), row.number == 1)
            moments = [opened_at, *sorted(tx.execute(started).scalars())]
    finally:
        database.close()
    return Refill(len(moments) - 1, max((later - earlier).total_seconds() for earlier, later in pairwise(moments)))


def _let_them_be_overdue(database: Database, seen: Seen, waiting: list[str]) -> None:
    """Wait until some answers of `/readyz` had to report jobs that are overdue according to their rows."""
    row = schema.jobs.c
    due_at = datetime.now(UTC) - 2 * OVERDUE
    with database.begin() as tx:
        tx.execute(update(schema.jobs).where(row.id.in_(waiting)).values(available_at=due_at))

    def is_reported() -> bool:
        waits = [wait for (job_id, _), wait in list(seen.overdue.items()) if job_id in waiting]
        return any(seen.reports_during(wait) for wait in waits)

    def seen_so_far() -> str:
        return f"{len(seen.reported)} answers of /readyz, {len(seen.overdue)} waits, the last: {seen.reported[-1:]}"

    await_until(is_reported, SETTLE_SECONDS, seen_so_far)


def _submit(clients: Clients, threads: ThreadPoolExecutor) -> list[str]:
    body = {"model": MODEL, "background": True, "input": "[[sim: full delay=0.1]] flush"}
    job = PlannedJob(-1, 0, body, None, cancel_after=None, delete_after=None, retry=False)
    with httpx.Client(timeout=30) as http:
        submitted = [threads.submit(clients.submit, http, job, random.Random(0), threads) for _ in range(WAITING)]
        return [each.result() for each in submitted]


def _await_rest(database: Database) -> None:
    """Wait until all calls are closed, those of killed workers included."""

    def at_rest() -> bool:
        with database.read() as tx:
            opened: int = tx.execute(select(func.count()).where(schema.attempts.c.ended_at.is_(None))).scalar_one()
        return opened == 0

    await_until(at_rest, SETTLE_SECONDS, "calls stayed open though all jobs had ended")
