"""Rate at which a backlog of immediate calls is drained, each of them a real HTTP call to the simulator.

One warm worker drains a large backlog that outlasts the measurement. Ours also drains a small one that is kept between
100 and 200 jobs. Peers that are slow to fill get a smaller large backlog, which the report notes. A peer's worker is
stopped (SIGSTOP) while its queue is filled.

Every peer has 100 slots like ours, except prefork: it has a process per slot, and so only as many as it needs.
"""

import signal
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from benchmarks.copies import analyze, completed, copy_job, queued
from benchmarks.peer import CELERY_GEVENT, CELERY_PREFORK, DBOS, PROCRASTINATE, Kind, Peer, peer
from benchmarks.report import Figure, Report, Role
from benchmarks.stage import Run, Stage, cpu_seconds, family, stage
from jobs.store.database import Database
from tests.support.stack import Stack
from tests.support.waiting import await_until

PROMPT = "[[sim: full delay=0]] Say hello in one word."
SMALL = 100
LONG = 3600.0
POLL_SECONDS = 0.02
WARM_SECONDS = 3
SLOTS = 100
PROCESSES = 8
"""Processes of prefork. More of them would only share the cores."""
PEERS = (CELERY_PREFORK, CELERY_GEVENT, PROCRASTINATE, DBOS)
CPU = Figure("CPU ms/job", digits=2)


@dataclass(frozen=True)
class Scale:
    """Sizes of the large backlogs, in jobs: of ours and the peer that is quick to fill, and of the other peers."""

    large: int
    large_of_others: int
    due_in: int  # seconds, enough to write the backlog
    seconds: int

    @property
    def figures(self) -> tuple[Figure, Figure, Figure]:
        """Figures: the rates for the large and the small backlog, and the CPU."""
        large, small = (Figure(f"drained/s, {count:,} queued", digits=0) for count in (self.large, SMALL))
        return large, small, CPU

    def backlog(self, kind: Kind) -> int:
        """Return the size of a peer's large backlog."""
        return self.large if kind is PROCRASTINATE else self.large_of_others

    def values(self, large: float, cpu: float, small: float | None = None) -> dict[str, float]:
        """Return the rates and the CPU by the names of their figures."""
        in_order = zip((each.name for each in self.figures), (large, small, cpu), strict=True)
        return {name: value for name, value in in_order if value is not None}


FULL = Scale(large=100_000, large_of_others=10_000, due_in=25, seconds=12)
QUICK = Scale(large=4_000, large_of_others=2_400, due_in=2, seconds=1)


def measure(run: Run) -> list[Report]:
    scale = QUICK if run.quick else FULL
    report = Report("drain", f"Draining {scale.large:,} immediate calls, and {SMALL}", scale.figures)
    with stage() as servers:
        for _ in range(run.rounds):
            with servers.stack({"BACKBURNER_MAX_ATTEMPTS": "1"}) as stack:
                report.add("Backburner, PostgreSQL", Role.OURS, _ours(stack, scale))
            for kind in PEERS:
                report.add(kind.name, kind.role, _peer(servers, kind, scale))
    report.note("CPU: of our API and worker, or of a peer's worker; without PostgreSQL, Valkey and the simulator")
    report.note("the process that keeps the small backlog filled shares the cores with the worker")
    others = ", ".join(kind.name for kind in PEERS if scale.backlog(kind) < scale.large)
    report.note(f"only {scale.large_of_others:,} queued, as they are slow to fill: {others}")
    return [report]


def _ours(stack: Stack, scale: Scale) -> dict[str, float]:
    database = Database(stack.database_url, pool_size=1)
    small = _small(stack, database, scale.seconds)
    large, cpu = _large(stack, database, scale)
    database.close()
    return scale.values(large, cpu, small)


def _small(stack: Stack, database: Database, seconds: float) -> float:
    template, copies = stack.submit(PROMPT, run_at=time.time() + LONG), 0
    filled_since = now = datetime.now(UTC)
    started_at = filled_since + timedelta(seconds=WARM_SECONDS)
    while (now - started_at).total_seconds() < seconds:
        if queued(database, now) < SMALL:
            copy_job(database, template, SMALL, before=copies, due_at=now)
            copies += SMALL
        time.sleep(POLL_SECONDS)
        now = datetime.now(UTC)
    before, done = (completed(database, filled_since, until) for until in (started_at, now))
    await_until(lambda: completed(database, filled_since) == copies, 30, stack.logs)
    return (done - before) / (now - started_at).total_seconds()


def _large(stack: Stack, database: Database, scale: Scale) -> tuple[float, float]:
    due = time.time() + scale.due_in
    copy_job(database, stack.submit(PROMPT, run_at=due), scale.large - 1)
    analyze(database)
    assert time.time() < due, "the backlog was due before it was there"
    due_at = datetime.fromtimestamp(due, UTC)
    await_until(lambda: datetime.now(UTC) > due_at + timedelta(seconds=WARM_SECONDS), 60, stack.logs)
    processes = [stack.api, *stack.worker_processes]
    started_at, cpu = datetime.now(UTC), cpu_seconds(processes)
    before = completed(database, due_at, started_at)
    time.sleep(scale.seconds)
    ended, cpu = datetime.now(UTC), cpu_seconds(processes) - cpu
    done = completed(database, due_at, ended) - before
    return done / (ended - started_at).total_seconds(), cpu * 1000 / done


def _peer(servers: Stage, kind: Kind, scale: Scale) -> dict[str, float]:
    with peer(servers, kind, concurrency=PROCESSES if kind is CELERY_PREFORK else SLOTS) as it:
        it.start_worker()
        return scale.values(*_large_of(it, scale.backlog(kind), scale.seconds))


def _signal(it: Peer, number: signal.Signals) -> None:
    for process in family(it.worker_processes):
        process.send_signal(number)


def _large_of(it: Peer, backlog: int, seconds: int) -> tuple[float, float]:
    _signal(it, signal.SIGSTOP)
    it.enqueue(backlog, PROMPT)
    _signal(it, signal.SIGCONT)
    it.await_finished(SMALL, 120)
    time.sleep(WARM_SECONDS)
    started_at, before, cpu = datetime.now(UTC), it.finished(), cpu_seconds(it.worker_processes)
    time.sleep(seconds)
    ended, done, cpu = datetime.now(UTC), it.finished() - before, cpu_seconds(it.worker_processes) - cpu
    assert before + done < backlog, "the backlog did not outlast the measurement"
    return done / (ended - started_at).total_seconds(), cpu * 1000 / done
