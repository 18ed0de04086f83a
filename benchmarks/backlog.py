"""The cost of an hour's backlog: every step of a job beside 1,000,000 queued and 10,000,000 finished jobs, and alone.

One PostgreSQL has two databases, with an API process on each and no workers. Each step runs alternately on the one and
on the other, so that other load on the machine slows both down. The steps of a worker are done through the store, in
the transactions that it would use. The backlog belongs to 1,000 keys, one of which is ours.
"""

import http.client
import json
import random
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import select

from benchmarks.fill import Past, fill, loading
from benchmarks.load import AUTHORIZED
from benchmarks.report import Figure, Report, Role, percentile
from benchmarks.stage import Run, Stage, stage
from jobs.backoff import Backoff
from jobs.job import Answer, CallReport, Cost, CostSource, Usage
from jobs.store import schema, workers
from jobs.store.api_keys import BOOTSTRAP_ID
from jobs.store.attempts import begin_attempts
from jobs.store.database import Database
from jobs.store.fair_scheduler import FairScheduler
from tests.support.stack import MODEL, Stack
from worker.outcome import EndedCall, Policy, record_outcome

ROOM = 10
"""Messages that one dispatch may enqueue: as many as slots have become free since the last one."""
FEW_EACH = 5
"""Queued jobs of each key in the database that the dispatch among many keys is compared with."""
AMONG_KEYS = "dispatch"
FIGURES = (
    Figure("p50, x empty", digits=2),
    Figure("p99, x empty", digits=2),
    Figure("p50 ms", digits=2),
    Figure("p50 ms, empty", digits=2),
    Figure("p99 ms", digits=2),
    Figure("p99 ms, empty", digits=2),
)
POLICY = Policy(Backoff(timedelta(seconds=2), timedelta(seconds=300)), timedelta(minutes=30), widen_on_overflow=False)
ANSWER = CallReport(
    Answer({"output": [{"type": "message", "content": [{"type": "output_text", "text": "Hello."}]}]}),
    http_status=200,
    raw=b'{"output_text": "Hello."}',
    provider_response_id="theirs",
    usage=Usage(100, 200, 300, 0, 50),
    cost=Cost(1_250, CostSource.PROVIDER),
)


@dataclass
class Side:
    """One of the databases, reached directly as by a worker, and through an API."""

    database: Database
    api: http.client.HTTPConnection
    scheduler: FairScheduler = field(default_factory=FairScheduler)
    worker_id: str = ""
    accepted: list[str] = field(default_factory=list)
    picked: list[str] = field(default_factory=list)
    finished: list[str] = field(default_factory=list)
    took: dict[str, list[float]] = field(default_factory=dict)

    def time(self, step: str, act: Callable[[], Any]) -> Any:
        """Run `act`, note its duration under `step`, and return its result."""
        started_at = time.perf_counter()
        result = act()
        self.took.setdefault(step, []).append((time.perf_counter() - started_at) * 1000)
        return result

    def request(self, method: str, path: str, body: bytes = b"") -> bytes:
        """Send a request over the side's one connection; return the body of the answer."""
        headers = {**AUTHORIZED, "content-type": "application/json"}
        self.api.request(method, path, body or None, headers)
        answer = self.api.getresponse()
        content = answer.read()
        assert answer.status == 200, content
        return content


def measure(run: Run) -> list[Report]:
    past = Past(finished=run.scaled(10_000_000, 100_000), queued=run.scaled(1_000_000, 10_000))
    with stage() as servers:
        url = servers.databases.migrated()
        with loading(servers.postgres):
            fill(url, past)
        return [compare(servers, url, run, past)]


def compare(servers: Stage, full_url: str, run: Run, past: Past) -> Report:
    """Measure every step alternately on the full database and on an empty one."""
    title = f"Beside {past.queued:,} queued jobs of {past.keys:,} keys and {past.finished:,} finished ones"
    report = Report("backlog", title, FIGURES)
    few_url = servers.databases.migrated()
    few_scheduler = FairScheduler()
    fill(few_url, Past(finished=0, queued=FEW_EACH * past.keys, keys=past.keys))
    with (
        _side(servers, servers.databases.migrated(), 1) as empty,
        _side(servers, full_url, 2) as full,
        closing(Database(few_url, pool_size=1)) as few,
    ):
        # until every key has been served once, as within any hour: pages are in memory and statements are planned
        _alternate(empty, full, few, few_scheduler, run.scaled(past.keys // ROOM + 10, 5))
        for _ in range(run.rounds):
            empty.took.clear()
            full.took.clear()
            _alternate(empty, full, few, few_scheduler, run.scaled(50, 10))
            for step, took in full.took.items():
                report.add(step, Role.OURS, _figures(took, empty.took[step]))
    servers.databases.drop(few_url)
    report.note(f"one client, one step at a time; a dispatch picks {ROOM} jobs")
    report.note(
        f"dispatch among {past.keys:,} keys is compared with {FEW_EACH} queued jobs of each key instead of none"
    )
    return report


@contextmanager
def _side(servers: Stage, url: str, number: int) -> Iterator[Side]:
    """Run an API process on this database, with a Redis of its own."""
    environment = {"BACKBURNER_LOG_LEVEL": "warning"}
    redis_url = servers.valkey.url.rsplit("/", 1)[0] + f"/{number}"
    with Stack(url, redis_url, servers.directory, environment, workers=0) as stack:
        database = Database(url, pool_size=2)
        side = Side(database, http.client.HTTPConnection(stack.url.removeprefix("http://")))
        with database.begin() as tx:
            long_ago = datetime.now(UTC) - timedelta(days=1)  # dead, so that nothing is enqueued for it
            side.worker_id = workers.register(tx, "benchmark", 1, 100, long_ago)
        row = schema.jobs.c
        mine = select(row.id).where(row.api_key_id == BOOTSTRAP_ID, row.completed_at.is_not(None))
        with database.read() as tx:
            side.finished = list(tx.execute(mine.limit(10_000)).scalars())
        try:
            yield side
        finally:
            side.api.close()
            database.close()


def _alternate(empty: Side, full: Side, few: Database, few_scheduler: FairScheduler, rounds: int) -> None:
    chance = random.Random(4711)

    def on_both(times: int, act: Callable[[Side, int], object]) -> None:
        for step in range(times):
            for side in (empty, full) if step % 2 else (full, empty):
                act(side, step)

    for _ in range(rounds):
        empty.accepted.clear()
        full.accepted.clear()
        on_both(ROOM + 2, lambda side, _: _accept(side))
        on_both(
            ROOM, lambda side, step: _request(side, "poll a queued one", "GET", f"/v1/responses/{side.accepted[step]}")
        )
        for cancelled in (-1, -2):
            on_both(1, lambda side, _: _cancel(side, cancelled))  # noqa: B023  # called at once
        for side in (full, empty):
            side.picked = side.time("dispatch, against one key", lambda: _dispatch(side.database, side.scheduler))  # noqa: B023  # called at once
        full.took.setdefault(AMONG_KEYS, []).append(full.took["dispatch, against one key"][-1])
        empty.time(AMONG_KEYS, lambda: _dispatch(few, few_scheduler))
        on_both(ROOM, lambda side, step: _work(side, side.picked[step]))
        on_both(
            ROOM,
            lambda side, _: _request(
                side, "poll a finished one", "GET", f"/v1/responses/{chance.choice(side.finished)}"
            ),
        )
        on_both(1, lambda side, _: _request(side, "list the first 20", "GET", "/v1/responses"))
        on_both(1, lambda side, _: _request(side, "usage of 30 days", "GET", "/v1/usage"))
        on_both(1, lambda side, _: _request(side, "metrics", "GET", "/metrics"))


def _request(side: Side, step: str, method: str, path: str, body: bytes = b"") -> Any:
    return side.time(step, lambda: side.request(method, path, body))


def _accept(side: Side) -> None:
    body = json.dumps({"model": MODEL, "input": "Say hello in one word.", "background": True}).encode()
    side.accepted.append(json.loads(_request(side, "accept", "POST", "/v1/responses", body))["id"])


def _cancel(side: Side, which: int) -> None:
    _request(side, "cancel", "POST", f"/v1/responses/{side.accepted[which]}/cancel")


def _dispatch(database: Database, scheduler: FairScheduler) -> list[str]:
    now = datetime.now(UTC)
    with database.begin() as tx:
        picked = scheduler.pick(tx, now, ROOM, now - timedelta(seconds=5))
    assert len(picked) == ROOM
    return picked


def _work(side: Side, job_id: str) -> None:
    """Claim a job and record the outcome of its call."""

    def claim() -> Any:
        with side.database.begin() as tx:
            return begin_attempts(tx, [job_id], side.worker_id, datetime.now(UTC))

    def end() -> None:
        with side.database.begin() as tx:
            record_outcome(tx, EndedCall(job, attempt, ANSWER, None, datetime.now(UTC)), POLICY, 0)

    [(job, attempt)] = side.time("claim", claim)
    side.time("record outcome", end)
    if job.api_key_id == BOOTSTRAP_ID:
        side.finished.append(job_id)


def _figures(full: list[float], empty: list[float]) -> dict[str, float]:
    found: dict[str, float] = {}
    for share in (50, 99):
        ours, alone = percentile(full, share), percentile(empty, share)
        found |= {f"p{share}, x empty": ours / alone, f"p{share} ms": ours, f"p{share} ms, empty": alone}
    return found
