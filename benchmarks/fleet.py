"""Load of a fleet on its servers: idle workers, silent streams, several APIs, a standing backlog.

Idle: statements and synced commits per second and worker, as PostgreSQL counts them, while the API is stopped. Streams:
the latency of creates at a steady pace, alone and beside streams of responses that are not due before tomorrow.
Notifications: bytes that Redis' pub/sub sends to each API process for the same held creates, behind one API and behind
several. Messages: the number sent to Redis for jobs that wait in its queue for longer than a lost message would take.
"""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from itertools import cycle
from typing import Any

import httpx
import psutil
import psycopg

from benchmarks.load import AUTHORIZED
from benchmarks.report import Figure, Report, Role, percentile
from benchmarks.stage import Run, Stage, stage
from tests.support.stack import MODEL, Process, Stack

WORKERS = 8
APIS = 4
STREAMS = 1_000
CREATES_A_SECOND = 20
COUNTED = {
    "shared_preload_libraries": "pg_stat_statements",
    "pg_stat_statements.track_utility": "on",
    "max_connections": "400",
}
STATEMENTS = "SELECT coalesce(sum(calls), 0) FROM pg_stat_statements WHERE query NOT LIKE 'SET LOCAL%'"
"""`SET LOCAL` is sent in one message with its BEGIN, so it is not counted."""
SYNCS = "SELECT coalesce(sum(fsyncs), 0) FROM pg_stat_io WHERE object = 'wal' AND backend_type = 'client backend'"

IDLE, SYNCED = Figure("statements/s and worker", digits=2), Figure("synced commits/s and worker", digits=2)
P90, TIMES = Figure("create p90 ms"), Figure("x without streams", digits=2)
RECEIVED, SHARE = Figure("KB received per API"), Figure("x one alone", digits=2)
REPEATED = Figure("repeated messages %")


def measure(run: Run) -> list[Report]:
    report = Report("fleet", "Load of a fleet on its servers", (IDLE, SYNCED, P90, TIMES, RECEIVED, SHARE, REPEATED))
    with stage(COUNTED) as servers:
        servers.postgres.execute("CREATE EXTENSION pg_stat_statements")
        for _ in range(run.rounds):
            first, each = _idle(servers, run.scaled(WORKERS, 4), run.scaled(60, 20))
            report.add("the first idle worker", Role.OURS, first)
            report.add("each further idle worker", Role.OURS, each)
            report.add(f"{STREAMS:,} silent streams", Role.OURS, _streams(servers, STREAMS, run.scaled(60, 20)))
            report.add(f"{APIS} APIs", Role.OURS, _notifications(servers, run.scaled(400, 100)))
            report.add("a standing backlog", Role.OURS, _messages(servers, run.scaled(200, 80)))
    return [report]


def _idle(servers: Stage, workers: int, seconds: int) -> tuple[dict[str, float], dict[str, float]]:
    """Measure the first worker, which runs the periodic tasks for all, and each further one."""
    figures = (IDLE.name, SYNCED.name)
    alone, together = (_rates(servers, count, seconds) for count in (1, workers))
    further = [(all_of - one) / (workers - 1) for one, all_of in zip(alone, together, strict=True)]
    return dict(zip(figures, alone, strict=True)), dict(zip(figures, further, strict=True))


def _rates(servers: Stage, workers: int, seconds: int) -> list[float]:
    """Return statements and synced commits per second."""
    with servers.stack(workers=workers) as stack, _stopped(stack.api):
        time.sleep(5)  # until each knows which worker holds the leases
        before = _counted(servers)
        time.sleep(seconds)
        return [(after - earlier) / seconds for after, earlier in zip(_counted(servers), before, strict=True)]


def _counted(servers: Stage) -> tuple[float, float]:
    with psycopg.connect(servers.postgres.url, autocommit=True) as connection:
        counts = [connection.execute(query.encode()).fetchone() for query in (STATEMENTS, SYNCS)]
    statements, syncs = (float(count[0]) for count in counts if count is not None)
    return statements, syncs


@contextmanager
def _stopped(process: Process) -> Iterator[None]:
    process.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.signal(signal.SIGCONT)


def _streams(servers: Stage, streams: int, seconds: int) -> dict[str, float]:
    with servers.stack({"BACKBURNER_MAX_HELD_PER_KEY": str(2 * streams)}, workers=1) as stack:
        waiting = stack.submit_many(streams, "Hello", run_at=int(time.time()) + 80_000)

        async def compared() -> tuple[float, float]:
            async with _client() as http, _client() as streaming:
                await _creates(http, stack, seconds // 3)
                alone = await _creates(http, stack, seconds)
                async with AsyncExitStack() as opened:
                    for job_id in waiting:
                        url = f"{stack.base_url}/responses/{job_id}?stream=true"
                        answer = await opened.enter_async_context(streaming.stream("GET", url))
                        assert answer.status_code == 200
                    return alone, await _creates(http, stack, seconds)

        alone, beside = asyncio.run(compared())
    return {P90.name: beside, TIMES.name: beside / alone}


async def _creates(http: httpx.AsyncClient, stack: Stack, seconds: int) -> float:
    """Return the p90 latency, in milliseconds, of background creates at an even pace."""
    took: list[float] = []

    async def create() -> None:
        started_at = time.perf_counter()
        await _create(http, stack.base_url, background=True, run_at=int(time.time()) + 80_000)
        took.append((time.perf_counter() - started_at) * 1000)

    started_at = time.perf_counter()
    creates = []
    for number in range(CREATES_A_SECOND * seconds):
        await asyncio.sleep(started_at + number / CREATES_A_SECOND - time.perf_counter())
        creates.append(asyncio.create_task(create()))
    await asyncio.gather(*creates)
    return percentile(took, 90)


def _notifications(servers: Stage, creates: int) -> dict[str, float]:
    received = []
    for apis in (1, APIS):
        with servers.stack({"BACKBURNER_WORKER_CONCURRENCY": "50"}) as stack:
            urls, processes = [stack.base_url], [stack.api]
            for _ in range(apis - 1):
                stack.start_api()
                urls.append(stack.base_url)
                processes.append(stack.api)

            async def held(urls: list[str]) -> None:
                of_api = cycle(urls)
                gate = asyncio.Semaphore(40)

                async def create() -> None:
                    async with gate:
                        await _create(http, next(of_api), input="[[sim: full delay=1]] Hello")

                async with _client() as http:
                    await asyncio.gather(*(create() for _ in range(creates)))

            before = _bytes_received(servers, processes)
            asyncio.run(held(urls))
            received.append((_bytes_received(servers, processes) - before) / apis / 1000)
    return {RECEIVED.name: received[1], SHARE.name: received[1] / received[0]}


def _bytes_received(servers: Stage, processes: list[Process]) -> int:
    """Return the bytes that Redis has sent over the subscriptions of these processes."""
    ports = {
        str(each.laddr.port) for process in processes for each in psutil.Process(process.popen.pid).net_connections()
    }
    with servers.valkey.client() as client:
        subscribed: list[dict[str, str]] = client.client_list(_type="pubsub")
    return sum(int(each["tot-net-out"]) for each in subscribed if each["addr"].rpartition(":")[2] in ports)


def _messages(servers: Stage, jobs: int) -> dict[str, float]:
    slots, call_seconds = 20, 8
    with servers.stack({"BACKBURNER_WORKER_CONCURRENCY": str(slots)}) as stack:
        before = _sent(servers)
        ids = stack.submit_many(jobs, f"[[sim: full delay={call_seconds}]] Hello")
        stack.await_all(ids, "completed", 60 + jobs / slots * call_seconds * 2)
        sent = _sent(servers) - before
    return {REPEATED.name: (sent - jobs) / jobs * 100}


def _sent(servers: Stage) -> int:
    with servers.valkey.client() as client:
        commands: dict[str, Any] = client.info("commandstats")
    return int(commands.get("cmdstat_lpush", {}).get("calls", 0))


@asynccontextmanager
async def _client() -> AsyncIterator[httpx.AsyncClient]:
    unlimited = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(limits=unlimited, headers=AUTHORIZED, timeout=None) as http:
        yield http


async def _create(http: httpx.AsyncClient, base_url: str, **fields: Any) -> None:
    answer = await http.post(f"{base_url}/responses", json={"model": MODEL, "input": "Hello", **fields})
    assert answer.status_code == 200, answer.text
