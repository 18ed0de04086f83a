"""Milliseconds added on an idle machine: create, pick-up, notify.

Create: from sending a background create until its answer. Pick-up: from the client's 2xx (for a queue without an API,
the return of its own enqueue) until the provider has the call. Notify: from the provider's last byte until a waiting
client has the answer. One job runs at a time. The simulator and the clients read the same clock.
"""

import time
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

import httpx

from benchmarks.limits import asgi
from benchmarks.peer import CELERY_GEVENT, DBOS, PROCRASTINATE, Kind, peer
from benchmarks.report import Figure, Report, Role, percentile
from benchmarks.stage import Run, Stage, stage
from tests.support.stack import MODEL, Stack
from tests.support.waiting import await_until

PROMPT = "[[sim: full delay=0]] Hello"
SLOW_PROMPT = "[[sim: full delay=0.2]] Hello"
PAUSE_SECONDS = 0.05  # long enough for all processes to become idle again
SHARES = (50, 99)

Moments = dict[str, float]
"""Job names as the provider sees them, to unix times."""


def measure(run: Run) -> list[Report]:
    jobs = run.scaled(200, 10)
    pick_up = Report("pick_up", "From accepted to called, idle machine", _figures("pick-up", "create"))
    notify = Report("notify", "From the provider's last byte to a waiting client, idle machine", _figures("notify"))
    with stage() as servers:
        for _ in range(run.rounds):
            with servers.stack() as stack:
                pick_up.add("Backburner, PostgreSQL", Role.OURS, _picked_up(stack.http, stack.calls, jobs))
                for name, wait in (("held create", _held), ("?wait", _waited), ("stream", _streamed)):
                    notify.add(f"Backburner, {name}", Role.OURS, _notified(stack, wait, jobs // 2))
            with servers.stack(sqlite=True) as stack:
                pick_up.add("Backburner, SQLite", Role.OURS, _picked_up(stack.http, stack.calls, jobs))
            pick_up.add("FastAPI + Celery", Role.PLAIN, _naive(servers, jobs))
            for kind in (PROCRASTINATE, DBOS):
                pick_up.add(kind.name, kind.role, _enqueued(servers, kind, jobs))
    pick_up.note("procrastinate and DBOS have no API: from the return of their own enqueue")
    return [pick_up, notify]


def _figures(*names: str) -> list[Figure]:
    return [Figure(f"{name} p{share} ms") for name in names for share in SHARES]


def shares(name: str, seconds: Iterable[float]) -> dict[str, float]:
    """Return the percentiles of `seconds` in milliseconds, by the names of their figures."""
    values = [each * 1000 for each in seconds]
    return {f"{name} p{share} ms": percentile(values, share) for share in SHARES}


def _picked_up(
    client: Callable[[], httpx.Client], calls: Callable[[], list[dict[str, Any]]], jobs: int
) -> dict[str, float]:
    accepted: Moments = {}
    created = []
    with client() as http:
        for number in range(jobs + 5):
            started_at = time.perf_counter()
            body = {"model": MODEL, "input": PROMPT, "background": True}
            with http.stream("POST", "/responses", json=body) as answer:
                accepted_at = time.time()
                answer.raise_for_status().read()
            name = str(answer.json()["id"])
            if number >= 5:  # the first ones are the warm-up
                created.append(time.perf_counter() - started_at)
                accepted[name] = accepted_at
            time.sleep(PAUSE_SECONDS)
    return {**_until_called(accepted, calls), **shares("create", created)}


def _naive(servers: Stage, jobs: int) -> dict[str, float]:
    with peer(servers, CELERY_GEVENT) as it:
        it.start_worker()
        with asgi("naive_api", it.environment()) as url:
            return _picked_up(lambda: httpx.Client(base_url=f"{url}/v1"), it.calls, jobs)


def _enqueued(servers: Stage, kind: Kind, jobs: int) -> dict[str, float]:
    with peer(servers, kind) as it:
        it.start_worker()
        return _until_called(it.enqueue_each(jobs, PROMPT, PAUSE_SECONDS), it.calls)


def _until_called(accepted: Moments, calls: Callable[[], list[dict[str, Any]]]) -> dict[str, float]:
    def all_called() -> Moments | None:
        found = moments(calls(), "received_at")
        return found if accepted.keys() <= found.keys() else None

    called = await_until(all_called, 30, "the provider did not receive all calls")
    return shares("pick-up", (called[name] - moment for name, moment in accepted.items()))


def moments(calls: list[dict[str, Any]], field: str) -> Moments:
    """Return when each job's call was received or finished, by the `field` of the call log."""
    return {
        str(call["client_request_id"]).partition(":")[0]: datetime.fromisoformat(call[field]).timestamp()
        for call in calls
        if call[field] is not None
    }


def _notified(stack: Stack, wait: Callable[[httpx.Client], tuple[str, float]], jobs: int) -> dict[str, float]:
    with stack.http() as http:
        ends = dict(wait(http) for _ in range(jobs))
    finished = moments(stack.calls(), "finished_at")
    return shares("notify", (ended_at - finished[name] for name, ended_at in ends.items()))


def _held(http: httpx.Client) -> tuple[str, float]:
    body = http.post("/responses", json={"model": MODEL, "input": SLOW_PROMPT}).raise_for_status()
    ended_at = time.time()
    return body.json()["id"], ended_at


def _waited(http: httpx.Client) -> tuple[str, float]:
    body = {"model": MODEL, "input": SLOW_PROMPT, "background": True}
    name = http.post("/responses", json=body).raise_for_status().json()["id"]
    answer = http.get(f"/responses/{name}", params={"wait": 60}).raise_for_status()
    ended_at = time.time()
    assert answer.json()["status"] == "completed"
    return name, ended_at


def _streamed(http: httpx.Client) -> tuple[str, float]:
    name, ended_at = "", 0.0
    with http.stream("POST", "/responses", json={"model": MODEL, "input": SLOW_PROMPT, "stream": True}) as answer:
        for line in answer.raise_for_status().iter_lines():
            if not name and '"id":"resp_' in line.replace('": "', '":"'):
                name = line.replace('": "', '":"').partition('"id":"')[2].partition('"')[0]
            if line == "event: response.completed":
                ended_at = time.time()
    assert ended_at, "the stream ended without response.completed"
    return name, ended_at
