"""How fast a backlog of immediate calls is drained, each of them a real HTTP call to the simulator.

The backlog is due at one moment, so that all of it is queued before the first call. Its worker is warm.
"""

import statistics
import time
from datetime import UTC, datetime, timedelta

from benchmarks.copies import completed, copy_job
from benchmarks.report import Figure, Report, Role
from benchmarks.stage import Run, cpu_seconds, stage
from jobs.store.database import Database
from tests.support.stack import Stack
from tests.support.waiting import await_until

PROMPT = "[[sim: full delay=0]] Say hello in one word."
SMALL, LARGE = 100, 100_000
SMALL_REPEATS = 5
FIGURES = (
    Figure("drained/s", digits=0),
    Figure(f"drained/s, {LARGE:,} queued", digits=0),
    Figure("CPU ms/job", digits=2),
)


def measure(run: Run) -> list[Report]:
    report = Report("drain", f"Draining {SMALL} immediate calls, and {LARGE:,}", FIGURES)
    with stage() as servers:
        for _ in range(run.rounds):
            with servers.stack({"BACKBURNER_MAX_ATTEMPTS": "1"}) as stack:
                report.add("Backburner, PostgreSQL", Role.OURS, _ours(stack, run.scaled(20, 10)))
    report.note("CPU: of our API and worker, without PostgreSQL, Valkey and the simulator")
    return [report]


def _ours(stack: Stack, seconds: int) -> dict[str, float]:
    database = Database(stack.database_url, pool_size=1)
    _small(stack, database)  # warms the worker up
    small = statistics.median(_small(stack, database) for _ in range(SMALL_REPEATS))
    large, cpu = _large(stack, database, seconds)
    database.close()
    return dict(zip((each.name for each in FIGURES), (small, large, cpu), strict=True))


def _queue(stack: Stack, database: Database, count: int, due_in: float) -> datetime:
    """Queue `count` calls that are due at one moment, which is returned."""
    due_at = time.time() + due_in
    copy_job(database, stack.submit(PROMPT, run_at=due_at), count - 1)
    assert time.time() < due_at, "the backlog was due before it was there"
    return datetime.fromtimestamp(due_at, UTC)


def _small(stack: Stack, database: Database) -> float:
    due_at = _queue(stack, database, SMALL, 1.5)
    await_until(lambda: completed(database, due_at)[0] == SMALL, 30, stack.logs)
    _, begun, ended = completed(database, due_at)
    return SMALL / (ended - begun).total_seconds()


def _large(stack: Stack, database: Database, seconds: int) -> tuple[float, float]:
    due_at = _queue(stack, database, LARGE, 25)
    await_until(lambda: datetime.now(UTC) > due_at + timedelta(seconds=3), 60, stack.logs)
    processes = [stack.api, *stack.worker_processes]
    begun, cpu = datetime.now(UTC), cpu_seconds(processes)
    before, *_ = completed(database, due_at, begun)
    time.sleep(seconds)
    ended, cpu = datetime.now(UTC), cpu_seconds(processes) - cpu
    done = completed(database, due_at, ended)[0] - before
    return done / (ended - begun).total_seconds(), cpu * 1000 / done
