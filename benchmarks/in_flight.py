"""Ten thousand calls of a minute each in one worker process, while heartbeats, cancels, streams and SQL keep working.

Memory is the peak of the unshared memory (USS) of our API and worker, without PostgreSQL, Valkey and the simulator: in
all, and above that of the same processes when they are warm and idle. Of a peer only its worker counts. Prefork has a
process for each call, so it is measured with as many as fit.
"""

import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from itertools import repeat
from typing import Any

import httpx
from sqlalchemy import select

from benchmarks.limits import bare_aiohttp
from benchmarks.load import AUTHORIZED, request, send_all
from benchmarks.peer import CELERY_GEVENT, CELERY_PREFORK, Kind, Peer, peer
from benchmarks.report import Figure, Report, Role, percentile
from benchmarks.stage import Run, Stage, call_summary, cpu_seconds, resident_bytes, simulator, stage
from jobs.store import schema
from jobs.store.database import Database, database_now
from tests.support.stack import MODEL, Process, Stack
from tests.support.waiting import await_until

CALLS = 10_000
CALL_SECONDS = 60
CLIENTS = 16
WARM_UP = 200
PREFORK_CALLS = 20
TRANSPORTS = ("plain", "stream")
FIGURES = (
    Figure("KB/call in all"),
    Figure("KB/call above idle"),
    Figure("most in flight", digits=0),
    Figure("not completed", digits=0),
    Figure("starts/s", digits=0),
    Figure("CPU ms/job"),
    Figure("cancel ms", digits=0),
    Figure("oldest heartbeat s"),
)


def measure(run: Run) -> list[Report]:
    calls, seconds = run.scaled(CALLS, 200), run.scaled(CALL_SECONDS, 2)
    report = Report("in_flight", f"{calls:,} calls of {seconds} s in one worker process", FIGURES)
    with stage() as servers:
        for _ in range(run.rounds):
            for transport in TRANSPORTS:
                settings = {
                    "BACKBURNER_WORKER_CONCURRENCY": str(calls),
                    "BACKBURNER_PROVIDER_TRANSPORT": transport,
                    "BACKBURNER_MAX_ATTEMPTS": "1",  # so that a failure is visible
                }
                with servers.stack(settings) as stack:
                    report.add(f"Backburner, {transport}", Role.OURS, _Flight(stack, calls, seconds).figures())
        report.add("Celery gevent", Role.PLAIN, _peer(servers, CELERY_GEVENT, calls, seconds))
        prefork = _peer(servers, CELERY_PREFORK, PREFORK_CALLS, run.scaled(15, 2))
        report.add(f"Celery prefork, {PREFORK_CALLS} calls", Role.PLAIN, prefork)
        report.add("bare aiohttp", Role.LIMIT, _bare(calls, seconds))
    report.note(
        "CPU from submit to final poll, and memory (USS), of our API and worker together; of a peer's worker alone"
    )
    if run.rounds > 1:
        report.note("the peers and the limit are measured once")
    report.note("meanwhile one response is cancelled, one is watched as a stream, and each is polled at the end")
    return [report]


def _peer(servers: Stage, kind: Kind, calls: int, seconds: int) -> dict[str, float]:
    with peer(servers, kind, concurrency=calls) as it:
        worker = [it.start_worker()]
        it.enqueue(min(calls, WARM_UP), _prompt(0))
        it.await_finished(min(calls, WARM_UP), 120)
        warm = it.summary()["total"]
        idle, cpu = resident_bytes(worker), cpu_seconds(worker)
        it.enqueue(calls, _prompt(seconds))
        peak = _peak_until(it, worker, warm + calls, 4 * seconds + 120)
        starts = sorted(datetime.fromisoformat(call["received_at"]).timestamp() for call in it.calls())[warm:]
        return {
            "KB/call in all": peak / 1024 / calls,
            "KB/call above idle": (peak - idle) / 1024 / calls,
            "most in flight": it.summary()["peak_in_flight"],
            "not completed": warm + calls - it.finished(),
            "starts/s": _rate(starts),
            "CPU ms/job": (cpu_seconds(worker) - cpu) * 1000 / calls,
        }


def _peak_until(it: Peer, worker: list[Process], finished: int, seconds: float) -> int:
    """Return the peak memory, in bytes, until `finished` jobs have finished or `seconds` have passed."""
    peak, give_up_at = resident_bytes(worker), time.monotonic() + seconds
    while it.finished() < finished and time.monotonic() < give_up_at:
        peak = max(peak, resident_bytes(worker))
        time.sleep(1)
    return peak


def _bare(calls: int, seconds: int) -> dict[str, float]:
    with simulator() as provider_url:
        found = bare_aiohttp(provider_url, calls, _prompt(seconds))
        log = httpx.get(f"{provider_url}/_calls", timeout=60).json()
    return {
        "KB/call in all": found["peak_bytes"] / 1024 / calls,
        "KB/call above idle": (found["peak_bytes"] - found["idle_bytes"]) / 1024 / calls,
        "most in flight": log["summary"]["peak_in_flight"],
        "not completed": 0,  # a failed call raises
        "starts/s": _rate(sorted(datetime.fromisoformat(call["received_at"]).timestamp() for call in log["calls"])),
        "CPU ms/job": found["cpu_seconds"] * 1000 / calls,
    }


def _prompt(seconds: int) -> str:
    return f"[[sim: full delay={seconds}]] Hello"


def _rate(starts: Sequence[float]) -> float:
    """Return the rate per second of the middle nine tenths of these times, which are sorted."""
    return 0.9 * len(starts) / (percentile(starts, 95) - percentile(starts, 5))


class _Flight:
    def __init__(self, stack: Stack, calls: int, seconds: int) -> None:
        self._stack = stack
        self._calls = calls
        self._seconds = seconds
        self._url = f"{stack.base_url}/responses"
        self._ours = [stack.api, *stack.worker_processes]
        self._database = Database(stack.database_url, pool_size=2)
        self._peak = 0
        self._oldest_heartbeat = 0.0

    def figures(self) -> dict[str, float]:
        """Run the calls; return the figures."""
        warm = self._submit(_prompt(0), WARM_UP)
        self._await(lambda: self._poll_all(warm) == WARM_UP, 60)
        httpx.delete(f"{self._stack.provider_url}/_calls").raise_for_status()
        idle = resident_bytes(self._ours)
        cpu = cpu_seconds(self._ours)
        with ThreadPoolExecutor(1) as threads:
            prompt = _prompt(self._seconds)
            watched = threads.submit(self._watch, prompt)
            *job_ids, cancelled = self._submit(prompt, self._calls - 1)
            self._await(lambda: self._summary()["total"] == self._calls, 3 * self._seconds)
            cancel_seconds = self._cancel(cancelled)
            self._await(lambda: self._summary()["in_flight"] == 0, 3 * self._seconds)
            events = watched.result()
        completed = self._poll_all(job_ids)
        cpu = cpu_seconds(self._ours) - cpu
        starts = sorted(datetime.fromisoformat(call["received_at"]).timestamp() for call in self._stack.calls())
        self._database.close()
        return {
            "KB/call in all": self._peak / 1024 / self._calls,
            "KB/call above idle": (self._peak - idle) / 1024 / self._calls,
            "most in flight": self._summary()["peak_in_flight"],
            "not completed": len(job_ids) - completed + (events[-1:] != ["response.completed"]),
            "starts/s": _rate(starts),
            "CPU ms/job": cpu * 1000 / self._calls,
            "cancel ms": cancel_seconds * 1000,
            "oldest heartbeat s": self._oldest_heartbeat,
        }

    def _submit(self, prompt: str, count: int) -> list[str]:
        body = json.dumps({"model": MODEL, "input": prompt, "background": True}).encode()
        create = request("POST", self._url, AUTHORIZED, body)
        answers = send_all(self._url, repeat(create, count), clients=CLIENTS).bodies
        return [json.loads(each)["id"] for each in answers]

    def _poll_all(self, job_ids: list[str]) -> int:
        """Poll each response once; return how many are completed."""
        polls = (request("GET", f"{self._url}/{job_id}", AUTHORIZED) for job_id in job_ids)
        answers = send_all(self._url, polls, clients=CLIENTS).bodies
        return sum(json.loads(each)["status"] == "completed" for each in answers)

    def _await(self, condition: Callable[[], bool], seconds: float) -> None:
        def check() -> bool:
            self._sample()
            return condition()

        give_up_at = time.monotonic() + seconds
        while not check():
            assert time.monotonic() < give_up_at, self._stack.logs()
            time.sleep(1)

    def _sample(self) -> None:
        """Note the memory, and the age of the worker's heartbeat."""
        self._peak = max(self._peak, resident_bytes(self._ours))
        with self._database.read() as tx:
            now = database_now(tx)
            heartbeats = tx.execute(select(schema.workers.c.heartbeat_at)).scalars().all()
        assert len(heartbeats) == 1, "the worker was marked dead"
        self._oldest_heartbeat = max(self._oldest_heartbeat, (now - heartbeats[0]).total_seconds())

    def _summary(self) -> dict[str, Any]:
        return call_summary(self._stack.provider_url)

    def _cancel(self, job_id: str) -> float:
        """Cancel a response; return the seconds until the provider sees its connection closed."""
        requested_at = time.time()
        with self._stack.http() as http:
            http.post(f"/responses/{job_id}/cancel").raise_for_status()

        def closed_at() -> str | None:
            [call] = self._stack.calls(job_id)
            closed: str | None = call["client_closed_at"]
            return closed

        return datetime.fromisoformat(await_until(closed_at, 30, self._stack.logs)).timestamp() - requested_at

    def _watch(self, prompt: str) -> list[str]:
        """Stream a response; return the types of its events in order."""
        body = {"model": MODEL, "input": prompt, "stream": True}
        with self._stack.http() as http, http.stream("POST", "/responses", json=body, timeout=300) as response:
            lines = [line for line in response.raise_for_status().iter_lines() if line.startswith("event: ")]
        return [line.removeprefix("event: ") for line in lines]
