"""Memory for large prompts and answers in flight, and its growth over many jobs.

Memory is the unshared memory (USS) of our API and worker. `all` adds PostgreSQL, Valkey and the simulator, with shared
memory counted once (PSS).
"""

import json
import time
from itertools import repeat
from threading import Event, Thread
from typing import Self

import httpx

from benchmarks.load import AUTHORIZED, request, send_all
from benchmarks.report import Figure, Report, Role
from benchmarks.stage import Run, Stage, call_summary, proportional_bytes, resident_bytes, stage
from jobs.store.database import Database
from jobs.store.responses import count_open
from tests.support.stack import MODEL, Process, Stack
from tests.support.waiting import await_until

MB = 1024 * 1024
CALLS = 1_000
CALL_SECONDS = 150  # until all calls are in flight
PROMPT_BYTES = 2 * MB
ANSWER_KB = 400
WARM_WAVES, WAVES, WAVE = 3, 4, 2_000
"""The API's response cache is full after the warm-up waves."""
LARGE = (
    *(Figure("peak GB", 2), Figure("idle GB", 2), Figure("peak GB, API", 2), Figure("peak GB, worker", 2)),
    *(Figure("peak GB, all", 2), Figure("most in flight", 0), Figure("not completed", 0)),
)
GROWTH = (Figure("KB per 1,000 jobs"), Figure("MB at first"), Figure("MB at last"))


def measure(run: Run) -> list[Report]:
    calls = run.scaled(CALLS, 50)
    title = f"{calls:,} calls in flight, {PROMPT_BYTES // MB} MB prompts and {ANSWER_KB} KB answers"
    large = Report("memory", title, LARGE)
    wave = run.scaled(WAVE, 100)
    growth = Report("growth", f"Growth over {WAVES * wave:,} immediate calls", GROWTH)
    with stage() as servers:
        for _ in range(run.rounds):
            settings = {"BACKBURNER_WORKER_CONCURRENCY": str(CALLS), "BACKBURNER_MAX_ATTEMPTS": "1"}
            with servers.stack(settings) as stack:
                large.add("Backburner", Role.OURS, _large(servers, stack, calls, run.scaled(CALL_SECONDS, 6)))
            with servers.stack() as stack:
                growth.add("Backburner", Role.OURS, _growth(stack, wave))
    return [large, growth]


def _large(servers: Stage, stack: Stack, calls: int, seconds: int) -> dict[str, float]:
    _wave(stack, "[[sim: full delay=0]] Hello", 50)
    httpx.delete(f"{stack.provider_url}/_calls").raise_for_status()
    idle = _resident(stack)
    prompt = "lorem ipsum " * (PROMPT_BYTES // 12) + f"[[sim: huge kb={ANSWER_KB} delay={seconds}]]"
    with _Peak(servers, stack) as peak:
        completed = _wave(stack, prompt, calls, seconds=4 * seconds + 120)
    peaks = [each / MB / 1024 for each in (peak.ours, idle, peak.api, peak.worker, peak.all)]
    values = (*peaks, call_summary(stack.provider_url)["peak_in_flight"], calls - completed)
    return dict(zip((each.name for each in LARGE), values, strict=True))


def _growth(stack: Stack, count: int) -> dict[str, float]:
    samples = []
    for _ in range(WARM_WAVES + WAVES):
        assert _wave(stack, "[[sim: full delay=0]] Hello", count) == count
        samples.append(_resident(stack))
    first, last = samples[WARM_WAVES - 1], samples[-1]
    values = ((last - first) / 1024 / (WAVES * count / 1_000), first / MB, last / MB)
    return dict(zip((each.name for each in GROWTH), values, strict=True))


def _resident(stack: Stack) -> int:
    return resident_bytes([stack.api, *stack.worker_processes])


class _Peak:
    """Peak memory during a block, in bytes, sampled twice a second."""

    def __init__(self, servers: Stage, stack: Stack) -> None:
        self.ours = self.api = self.worker = self.all = 0
        self._stack = stack
        self._all: list[Process | int] = [
            servers.postgres.pid,
            servers.valkey.pid,
            stack.simulator,
            stack.api,
            *stack.worker_processes,
        ]
        self._stopped = Event()
        self._thread = Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._stopped.wait(0.5):
            api, worker = resident_bytes([self._stack.api]), resident_bytes(self._stack.worker_processes)
            self.api, self.worker = max(self.api, api), max(self.worker, worker)
            self.ours = max(self.ours, api + worker)
            self.all = max(self.all, proportional_bytes(self._all))


def _wave(stack: Stack, prompt: str, count: int, seconds: float = 120) -> int:
    """Submit `count` jobs, wait until all have ended, and poll each; return how many have completed."""
    url = f"{stack.base_url}/responses"
    body = json.dumps({"model": MODEL, "input": prompt, "background": True}).encode()
    create = request("POST", url, AUTHORIZED, body)
    job_ids = [json.loads(each)["id"] for each in send_all(url, repeat(create, count), clients=4).bodies]
    database = Database(stack.database_url, pool_size=1)

    def is_over() -> bool:
        time.sleep(0.5)
        with database.read() as tx:
            return not sum(count_open(tx).values())

    await_until(is_over, seconds, stack.logs)
    database.close()
    polls = (request("GET", f"{url}/{job_id}", AUTHORIZED) for job_id in job_ids)
    return sum(json.loads(each)["status"] == "completed" for each in send_all(url, polls, clients=4).bodies)
