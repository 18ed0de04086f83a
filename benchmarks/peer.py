"""The durable queues that ours is compared with, each started on the stage's servers and driven in the same way.

    with peer(servers, CELERY_GEVENT, concurrency=100) as it:
        it.enqueue(2_000, "[[sim: full delay=0]] Hello")   # returns when all of them are accepted
        it.start_worker()
        it.await_finished(2_000, 120)
        print(it.rate(begun))                              # or it.finished() and it.worker_processes, as it runs

Their programs are in `benchmarks/peers`. Each calls the simulator once per job, over HTTP.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import httpx
import psutil
import psycopg

from benchmarks.report import Role
from benchmarks.stage import Stage, call_summary, family
from tests.support.stack import Process
from tests.support.waiting import await_until

CELERY: Final = ("celery", "--app", "benchmarks.peers.celery_app", "worker", "--loglevel", "warning")


@dataclass(frozen=True)
class Kind:
    """A peer: its name, its program under `benchmarks.peers`, and the arguments after `python -m` for its worker."""

    name: str
    role: Role
    program: str
    worker: tuple[str, ...]
    ready: str = "worker ready"


CELERY_PREFORK: Final = Kind(
    "Celery prefork", Role.PLAIN, "celery_app", (*CELERY, "--pool", "prefork", "--concurrency", "{concurrency}")
)
CELERY_GEVENT: Final = Kind(
    "Celery gevent", Role.PLAIN, "celery_app", (*CELERY, "--pool", "gevent", "--concurrency", "{concurrency}")
)
PROCRASTINATE: Final = Kind(
    "procrastinate",
    Role.PEER,
    "procrastinate_app",
    ("procrastinate", "--app", "benchmarks.peers.procrastinate_app.app", "worker", "--concurrency", "{concurrency}"),
    ready="Starting worker",
)
DBOS: Final = Kind("DBOS", Role.PEER, "dbos_app", ("benchmarks.peers.dbos_app", "worker"))
PEERS: Final = (CELERY_PREFORK, CELERY_GEVENT, PROCRASTINATE, DBOS)


@dataclass
class Peer:
    """A peer on a database of its own. `concurrency` applies to each worker process."""

    kind: Kind
    database_url: str
    broker_url: str
    concurrency: int
    simulator: Process
    worker_processes: list[Process] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.provider_url = self.simulator.match(r"listening on (http://\S+)")[1]
        self._command("setup")

    def enqueue(self, count: int, prompt: str) -> None:
        """Enqueue `count` jobs through the peer's own API, in a process of its own."""
        self._command("enqueue", str(count), prompt)

    def enqueue_each(self, count: int, prompt: str, every: float) -> dict[str, float]:
        """Enqueue a job every `every` seconds; return the unix times of acceptance by job name, as in `calls`."""
        lines = self._command("enqueue", str(count), prompt, "--every", str(every)).lines
        accepted = [json.loads(line) for line in lines if line.startswith("{")]
        return {each["name"]: each["accepted_at"] for each in accepted}

    def start_worker(self) -> Process:
        """Start one more worker process and wait until it is ready."""
        arguments = [each.format(concurrency=self.concurrency) for each in self.kind.worker]
        worker = Process(self.kind.name, [sys.executable, "-m", *arguments], self.environment())
        self.worker_processes.append(worker)
        worker.match(self.kind.ready, 60)
        return worker

    def environment(self) -> dict[str, str]:
        """Return the environment with the addresses that its programs need."""
        return {
            "DATABASE_URL": self.database_url,
            "BROKER_URL": self.broker_url,
            "PROVIDER_URL": self.provider_url,
            "CONCURRENCY": str(self.concurrency),
        }

    def finished(self, since: datetime | None = None, until: datetime | None = None) -> int:
        """Count the jobs with a result, by the database's clock between two aware times."""
        query = (
            "SELECT count(*) FROM results WHERE (%(since)s::timestamptz IS NULL OR finished_at > %(since)s)"
            " AND (%(until)s::timestamptz IS NULL OR finished_at <= %(until)s)"
        )
        with psycopg.connect(self.database_url) as connection:
            [count] = connection.execute(query, {"since": since, "until": until}).fetchone() or (0,)
        return int(count)

    def await_finished(self, count: int, seconds: float) -> None:
        """Wait until `count` jobs have a result."""
        await_until(lambda: self.finished() >= count, seconds, self.logs)

    def summary(self) -> dict[str, Any]:
        """Return the provider's totals (`in_flight`, `peak_in_flight`, `total`, ...)."""
        return call_summary(self.provider_url)

    def calls(self) -> list[dict[str, Any]]:
        """Return the provider's call log. A `client_request_id` is a job's name followed by `:1`."""
        found: list[dict[str, Any]] = httpx.get(f"{self.provider_url}/_calls", timeout=30).json()["calls"]
        return found

    def logs(self) -> str:
        """Return the last lines of its workers."""
        return "\n".join(f"--- {each.name}\n" + "\n".join(each.lines[-40:]) for each in self.worker_processes)

    def stop_workers(self) -> None:
        """Kill the workers, as the measurement is over."""
        for each in self.worker_processes:
            with suppress(psutil.NoSuchProcess):
                for member in family([each]):
                    member.kill()
        for each in self.worker_processes:
            each.stop()
        self.worker_processes.clear()

    def _command(self, *arguments: str) -> Process:
        command = [sys.executable, "-m", f"benchmarks.peers.{self.kind.program}", *arguments]
        process = Process(f"{self.kind.name} {arguments[0]}", command, self.environment())
        try:
            await_until(lambda: process.popen.poll() is not None, 600, lambda: process.output)
        finally:
            status = process.stop()
        assert status == 0, process.output
        return process


@contextmanager
def peer(servers: Stage, kind: Kind, *, concurrency: int = 100) -> Iterator[Peer]:
    """Yield a peer on a fresh database and an empty Valkey, with a simulator of its own and no worker yet."""
    servers.valkey.flush()
    url = servers.databases.empty()
    simulator = Process("simulator", [sys.executable, "-m", "simulator", "--port", "0"], {})
    try:
        it = Peer(kind, url, servers.valkey.url, concurrency, simulator)
        try:
            yield it
        finally:
            it.stop_workers()
    finally:
        simulator.stop()
        servers.databases.drop(url)
