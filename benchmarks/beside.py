"""Interference of webhook deliveries and calls in flight: each alone, then both in one worker process.

Deliveries: 2,000 a minute at an even pace, for responses that wait until tomorrow and are cancelled. Measured is the
time from a response's end, as recorded with its event, until the endpoint has the event. Calls: 10,000 that only wait;
none of them starts or ends during a measurement. They are measured by a steady probe of new calls of a second each:
pick-up, from the client's 2xx until the provider has the call; notify, from the provider's last byte until a client
that waits with `?wait` has the answer; and polls of calls in flight.

The three measurements differ only in what they compare. The probes run in all of them. Beside the calls alone, as many
responses are cancelled, without webhooks. Beside the deliveries alone, 20 calls wait, so that there are some to poll.
"""

import asyncio
import json
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any

import aiohttp
import httpx
from sqlalchemy import select

from benchmarks.endpoints import ENVIRONMENT, Endpoints, endpoints
from benchmarks.latency import moments, shares
from benchmarks.load import AUTHORIZED, request, send_all
from benchmarks.report import Figure, Report, Role
from benchmarks.stage import Run, call_summary, stage
from jobs.encryption import generate_key
from jobs.store import schema
from jobs.store.database import Database
from tests.support.stack import MODEL, Stack
from tests.support.waiting import await_until

CALLS = 10_000
DELIVERIES_A_MINUTE = 2_000
PROBES_A_SECOND = 10
ENDPOINTS = 20
CLIENTS = 16
WARM_UP = 200
FEW = 20
MEASURED = ("delivery", "pick-up", "notify", "poll")
FIGURES = [Figure(f"{name} p{share} ms") for name in MEASURED for share in (99, 50)]
DELIVERIES_ALONE, FLIGHT_ALONE, BOTH = "deliveries alone", "calls alone", "both"


def measure(run: Run) -> list[Report]:
    calls, seconds = run.scaled(CALLS, 300), run.scaled(60, 5)
    title = f"{DELIVERIES_A_MINUTE:,} deliveries a minute and {calls:,} calls in flight, one worker process"
    report = Report("beside", title, FIGURES)
    with stage() as servers:
        for _ in range(run.rounds):
            settings = {
                **ENVIRONMENT,
                "BACKBURNER_ENCRYPTION_KEYS": generate_key(),
                "BACKBURNER_WORKER_CONCURRENCY": str(calls + 200),
                "BACKBURNER_MAX_ATTEMPTS": "1",
            }
            with servers.stack(settings) as stack, endpoints(ENDPOINTS) as targets:
                for name, values in _Beside(stack, targets, calls, seconds).rows():
                    report.add(name, Role.OURS, values)
                for worker in stack.worker_processes:
                    worker.kill()  # its calls are not needed any more
    for name in MEASURED:
        figure = Figure(f"{name} p99 ms")
        alone, both = (
            next(value for each in report.subjects if each.name in names and (value := each.median(figure)))
            for names in ((DELIVERIES_ALONE, FLIGHT_ALONE), (BOTH,))
        )
        report.note(f"{name} p99: {both / alone:.2f} times what it is alone")
    return [report]


@dataclass
class _Observed:
    """Observations of the clients in one window: unix times by response, and the latencies of polls in seconds."""

    accepted: dict[str, float] = field(default_factory=dict)
    ended: dict[str, float] = field(default_factory=dict)
    polls: list[float] = field(default_factory=list)


class _Beside:
    def __init__(self, stack: Stack, targets: Endpoints, calls: int, seconds: int) -> None:
        self._stack = stack
        self._targets = targets
        self._calls = calls
        self._seconds = seconds
        self._url = f"{stack.base_url}/responses"
        self._polled: list[str] = []

    def rows(self) -> Iterator[tuple[str, dict[str, float]]]:
        """Measure and yield the three rows of the table, one after the other."""
        self._warm_up()
        count = DELIVERIES_A_MINUTE * self._seconds // 60
        with_webhook = self._create((self._queued(**self._hook(number)) for number in range(2 * count)), 2 * count)
        without_webhook = self._create((self._queued() for _ in range(count)), count)
        self._start_calls(FEW)
        alone = self._window(with_webhook[:count])
        yield DELIVERIES_ALONE, {name: value for name, value in alone.items() if name.startswith("delivery")}
        self._start_calls(self._calls)
        yield FLIGHT_ALONE, self._window(without_webhook)
        yield BOTH, self._window(with_webhook[count:])
        assert self._summary()["in_flight"] >= self._calls, "the calls ended before the measurement"

    def _warm_up(self) -> None:
        bodies = (self._call("Hello", 0) for _ in range(WARM_UP))
        self._create(bodies, WARM_UP)
        await_until(lambda: self._summary()["outcomes"].get("answered") == WARM_UP, 60, self._stack.logs)
        hooked = (self._queued(**self._hook(number)) for number in range(ENDPOINTS))
        self._start_calls(FEW)
        self._window(self._create(hooked, ENDPOINTS))

    def _start_calls(self, count: int) -> None:
        """Start `count` calls that last until the end of the benchmark. These are polled."""
        before = self._summary()["total"]
        hold = 8 * self._seconds + self._calls // 50
        self._polled = self._create((self._call("Hello", hold) for _ in range(count)), count)
        await_until(lambda: self._summary()["total"] == before + count, hold, self._stack.logs)
        time.sleep(self._seconds / 12)  # until the aftermath of the start is over

    def _window(self, to_end: list[str]) -> dict[str, float]:
        """Measure one window, in which the responses `to_end` are cancelled; return its figures in milliseconds."""
        before = self._summary()["total"]
        observed = asyncio.run(self._drive(to_end))
        figures: dict[str, float] = {}
        delays = self._delivery_delays(to_end)
        if delays:
            figures |= shares("delivery", delays)
        calls = self._calls_after(before)
        received, finished = moments(calls, "received_at"), moments(calls, "finished_at")
        figures |= shares("pick-up", [received[name] - at for name, at in observed.accepted.items()])
        figures |= shares("notify", [at - finished[name] for name, at in observed.ended.items()])
        figures |= shares("poll", observed.polls)
        return figures

    async def _drive(self, to_end: list[str]) -> _Observed:
        observed = _Observed()
        polled = cycle(self._polled)

        async def cancel(number: int) -> None:
            async with http.post(f"{self._url}/{to_end[number]}/cancel") as answer:
                assert answer.status == 200, answer.status

        async def probe(_number: int) -> None:
            async with http.post(self._url, data=self._call("Hello", 1)) as answer:
                accepted_at = time.time()
                name = (await answer.json())["id"]
            observed.accepted[name] = accepted_at
            async with http.get(f"{self._url}/{name}", params={"wait": 60}) as answer:
                observed.ended[name] = time.time()
                assert (await answer.json())["status"] == "completed", name

        async def poll(_number: int) -> None:
            started_at = time.perf_counter()
            async with http.get(f"{self._url}/{next(polled)}") as answer:
                assert answer.status == 200, answer.status
                await answer.read()
            observed.polls.append(time.perf_counter() - started_at)

        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), headers={**AUTHORIZED, "content-type": "application/json"}
        ) as http:
            count = PROBES_A_SECOND * self._seconds
            await asyncio.gather(
                _paced(cancel, len(to_end), DELIVERIES_A_MINUTE / 60),
                _paced(probe, count, PROBES_A_SECOND),
                _paced(poll, 2 * count, 2 * PROBES_A_SECOND),
            )
        return observed

    def _delivery_delays(self, ended: list[str]) -> list[float]:
        database = Database(self._stack.database_url, pool_size=1)
        row = schema.webhook_events.c
        with database.read() as tx:
            events = {each.job_id: each for each in tx.execute(select(row.id, row.job_id, row.created_at))}
        database.close()
        arrivals = self._targets.await_count(len(events))
        found = (events[job_id] for job_id in ended if job_id in events)
        return [arrivals[each.id] - each.created_at.timestamp() for each in found]

    def _create(self, bodies: Iterator[bytes], count: int) -> list[str]:
        creates = (request("POST", self._url, AUTHORIZED, body) for body in bodies)
        answers = send_all(self._url, creates, clients=CLIENTS).bodies
        assert len(answers) == count, len(answers)
        return [json.loads(each)["id"] for each in answers]

    @staticmethod
    def _call(prompt: str, seconds: int) -> bytes:
        body = {"model": MODEL, "input": f"[[sim: full delay={seconds}]] {prompt}", "background": True}
        return json.dumps(body).encode()

    @staticmethod
    def _queued(**fields: Any) -> bytes:
        """Return the body of a response that waits until tomorrow."""
        at = int(time.time()) + 86_400
        body = {"model": MODEL, "input": "x", "background": True, "run_at": at, "deadline_seconds": 2 * 86_400}
        return json.dumps(body | fields).encode()

    def _hook(self, number: int) -> dict[str, Any]:
        return {"webhook": {"url": self._targets.urls[number % ENDPOINTS]}}

    def _summary(self) -> dict[str, Any]:
        return call_summary(self._stack.provider_url)

    def _calls_after(self, sequence: int) -> list[dict[str, Any]]:
        call_log = httpx.get(f"{self._stack.provider_url}/_calls", params={"after": sequence}, timeout=30).json()
        calls: list[dict[str, Any]] = call_log["calls"]
        return calls


async def _paced(do: Callable[[int], Coroutine[Any, Any, None]], count: int, rate: float) -> None:
    """Start `do` `count` times, `rate` times a second however long each takes, and wait until all have ended."""
    loop = asyncio.get_running_loop()
    started_at = loop.time()
    running = []
    for number in range(count):
        await asyncio.sleep(started_at + number / rate - loop.time())
        running.append(asyncio.create_task(do(number)))
    await asyncio.gather(*running)
