"""A flushed broker, looked at closely: while every slot is taken and more jobs wait, all bells are lost at once."""

import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Final

import httpx
from sqlalchemy import delete, func, select

from jobs.store import tables
from jobs.store.database import Database
from tests.chaos.clients import Clients
from tests.chaos.plan import CONCURRENCY, MODEL, PlannedJob
from tests.chaos.world import World
from tests.support.waiting import await_until

TRIES: Final = 5
WAITING: Final = CONCURRENCY
HELD_SECONDS: Final = 4
SETTLE_SECONDS: Final = 30


@dataclass(frozen=True)
class Refill:
    """How many jobs waited when the bells were lost, and how long at most a slot then stood free and none began."""

    jobs: int
    seconds: float


def refill_after_flush(world: World, clients: Clients, threads: ThreadPoolExecutor) -> Refill:
    """Fill every slot, let more jobs wait, flush, and see how soon those run once slots come free."""
    world.change_provider(chaos=0)
    world.leave_one_worker()  # the fewer slots, the sooner they are all taken
    database = Database(world.database_url)
    try:
        for _ in range(TRIES):
            _await_rest(database)
            with database.begin() as tx:  # a lane narrowed by what went before would hold some slots back
                tx.execute(delete(tables.lanes))
            holding = _submit(clients, threads, CONCURRENCY, f"full delay={HELD_SECONDS}", priority=9)
            waiting = _submit(clients, threads, WAITING, "full delay=0.1", priority=1)
            taken = _are_all_slots_taken(database)
            world.valkey.flush()
            clients.drain(SETTLE_SECONDS)
            if taken:
                freed = sorted(ended for _started, ended in _spans(database, holding))
                starts = sorted(started for started, _ended in _spans(database, waiting))
                return Refill(WAITING, _longest_idle(freed, starts))
    finally:
        database.close()
    raise AssertionError("this machine is too slow to take every slot at once")


def _longest_idle(freed: list[datetime], starts: list[datetime]) -> float:
    """The longest span, in seconds, with a slot free and no job taking one; the n-th start needs the n-th slot."""
    before = [freed[0], *starts]
    idle = (start - max(before[place], freed[place]) for place, start in enumerate(starts))
    return max(span.total_seconds() for span in idle)


def _submit(clients: Clients, threads: ThreadPoolExecutor, count: int, script: str, priority: int) -> list[str]:
    body = {"model": MODEL, "background": True, "input": f"[[sim: {script}]] flush", "priority": priority}
    job = PlannedJob(-1, 0, body, None, cancel_after=None, delete_after=None, revive=False)
    with httpx.Client(timeout=30) as http:
        submitted = [threads.submit(clients.submit, http, job, random.Random(0), threads) for _ in range(count)]
        return [each.result() for each in submitted]


def _await_rest(database: Database) -> None:
    """Until all calls are closed: those of killed workers are, once they have been given up."""

    def at_rest() -> bool:
        with database.read() as tx:
            opened = tx.execute(select(func.count()).where(tables.attempts.c.ended_at.is_(None))).scalar_one()
        return opened == 0

    await_until(at_rest, SETTLE_SECONDS, "calls stayed open though all jobs had ended")


def _are_all_slots_taken(database: Database) -> bool:
    with database.read() as tx:
        held: int = tx.execute(select(func.count()).where(tables.IS_HELD)).scalar_one()
    return held == CONCURRENCY


def _spans(database: Database, job_ids: list[str]) -> list[tuple[datetime, datetime]]:
    row = tables.attempts.c
    with database.read() as tx:
        found = tx.execute(select(row.started_at, row.ended_at).where(row.job_id.in_(job_ids), row.number == 1))
        return [(started, ended) for started, ended in found]
