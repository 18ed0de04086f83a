"""How fast a backlog of immediate calls is drained, each of them a real HTTP call to the simulator.

Two rates of each, by one worker that is warm:

- small: 100 calls that are due at one moment, from the first of them that the provider sees until the last has its
  result, again and again; all of them over all of that time, so that the tail of each, when few are left, counts.
  Ours become due by `run_at`; a peer's worker is stopped (SIGSTOP) while they are put into its queue.
- large: as many as are done within some seconds, out of a backlog that outlasts them. It has no tail, but ours rings
  and claims all the time, among 100,000 rows. Peers that are slow to fill have fewer, and the report says so.

Every peer has the 100 slots that ours has; only prefork has a process per slot, and so no more than it needs.
"""

import signal
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from benchmarks.copies import completed, copy_job
from benchmarks.peer import CELERY_GEVENT, CELERY_PREFORK, DBOS, PROCRASTINATE, Kind, Peer, peer
from benchmarks.report import Figure, Report, Role
from benchmarks.stage import Run, Stage, cpu_seconds, family, stage
from jobs.store.database import Database
from tests.support.stack import Stack
from tests.support.waiting import await_until

PROMPT = "[[sim: full delay=0]] Say hello in one word."
SMALL = 100
SLOTS = 100
PROCESSES = 8
"""Of prefork: each computes on its own, so that more of them only share the cores."""
PEERS = (CELERY_PREFORK, CELERY_GEVENT, PROCRASTINATE, DBOS)
CPU = Figure("CPU ms/job", digits=2)


@dataclass(frozen=True)
class Scale:
    """How much is drained: a large backlog of ours and of the peer that is quick to fill, of the others less."""

    large: int
    large_of_others: int
    due_in: int  # seconds, enough to write them
    seconds: int
    repeats: int

    @property
    def figures(self) -> tuple[Figure, Figure, Figure]:
        """The rates from the large backlog and from small ones, and the CPU."""
        large, small = (Figure(f"drained/s, {count:,} queued", digits=0) for count in (self.large, SMALL))
        return large, small, CPU

    def backlog(self, kind: Kind) -> int:
        """The large backlog of a peer."""
        return self.large if kind is PROCRASTINATE else self.large_of_others

    def values(self, small: float, large: float, cpu: float) -> dict[str, float]:
        """Rates and CPU by the names of their figures."""
        return dict(zip((each.name for each in self.figures), (large, small, cpu), strict=True))


FULL = Scale(large=100_000, large_of_others=10_000, due_in=25, seconds=12, repeats=8)
QUICK = Scale(large=4_000, large_of_others=2_000, due_in=3, seconds=2, repeats=2)


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
    others = ", ".join(kind.name for kind in PEERS if scale.backlog(kind) < scale.large)
    report.note(f"only {scale.large_of_others:,} queued, as they are slow to fill: {others}")
    return [report]


def _ours(stack: Stack, scale: Scale) -> dict[str, float]:
    database = Database(stack.database_url, pool_size=1)
    _small(stack, database)  # warms the worker up
    spans = [_small(stack, database) for _ in range(scale.repeats)]
    large, cpu = _large(stack, database, scale)
    database.close()
    return scale.values(SMALL * len(spans) / sum(spans), large, cpu)


def _queue(stack: Stack, database: Database, count: int, due_in: float) -> datetime:
    """Queue `count` calls that are due at one moment, which is returned."""
    due_at = time.time() + due_in
    copy_job(database, stack.submit(PROMPT, run_at=due_at), count - 1)
    assert time.time() < due_at, "the backlog was due before it was there"
    return datetime.fromtimestamp(due_at, UTC)


def _small(stack: Stack, database: Database) -> float:
    due_at = _queue(stack, database, SMALL, 3)
    await_until(lambda: completed(database, due_at)[0] == SMALL, 30, stack.logs)
    _, begun, ended = completed(database, due_at)
    return (ended - begun).total_seconds()


def _large(stack: Stack, database: Database, scale: Scale) -> tuple[float, float]:
    due_at = _queue(stack, database, scale.large, scale.due_in)
    await_until(lambda: datetime.now(UTC) > due_at + timedelta(seconds=3), 60, stack.logs)
    processes = [stack.api, *stack.worker_processes]
    begun, cpu = datetime.now(UTC), cpu_seconds(processes)
    before, *_ = completed(database, due_at, begun)
    time.sleep(scale.seconds)
    ended, cpu = datetime.now(UTC), cpu_seconds(processes) - cpu
    done = completed(database, due_at, ended)[0] - before
    return done / (ended - begun).total_seconds(), cpu * 1000 / done


def _peer(servers: Stage, kind: Kind, scale: Scale) -> dict[str, float]:
    with peer(servers, kind, concurrency=PROCESSES if kind is CELERY_PREFORK else SLOTS) as it:
        it.start_worker()
        _small_of(it)
        spans = [_small_of(it) for _ in range(scale.repeats // 2)]
        large, cpu = _large_of(it, scale.backlog(kind), scale.seconds)
    return scale.values(SMALL * len(spans) / sum(spans), large, cpu)


def _small_of(it: Peer) -> float:
    finished, called = it.finished(), it.summary()["total"]
    _signal(it, signal.SIGSTOP)
    it.enqueue(SMALL, PROMPT)
    _signal(it, signal.SIGCONT)
    it.await_finished(finished + SMALL, 120)
    first = sorted(str(call["received_at"]) for call in it.calls())[called]
    return (it.last_finished_at() - datetime.fromisoformat(first)).total_seconds()


def _signal(it: Peer, number: signal.Signals) -> None:
    for process in family(it.worker_processes):
        process.send_signal(number)


def _large_of(it: Peer, backlog: int, seconds: int) -> tuple[float, float]:
    finished = it.finished()
    _signal(it, signal.SIGSTOP)
    it.enqueue(backlog, PROMPT)
    _signal(it, signal.SIGCONT)
    it.await_finished(finished + SMALL, 120)
    begun, before, cpu = datetime.now(UTC), it.finished(), cpu_seconds(it.worker_processes)
    time.sleep(seconds)
    ended, done, cpu = datetime.now(UTC), it.finished() - before, cpu_seconds(it.worker_processes) - cpu
    assert before + done < finished + backlog, "the backlog did not outlast the measurement"
    return done / (ended - begun).total_seconds(), cpu * 1000 / done
