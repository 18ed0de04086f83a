"""A provider's outage is not the jobs' fault: they wait as long as it lasts, use no attempt, and run afterwards.

The simulator's call log counts the billed calls, the rows of attempts all calls.
"""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from jobs.store import schema
from jobs.store.database import Database
from tests.cli.running import run
from tests.support.outages import (
    Expired,
    HalfRefused,
    Limited,
    Nameless,
    Outage,
    OutageStack,
    Overloaded,
    Refused,
    Unavailable,
)
from tests.support.preloaded import needs_compiler
from tests.support.stack import API_KEY, MODEL, Stack
from tests.support.valkey import ValkeyServer
from tests.support.waiting import await_until

pytestmark = pytest.mark.long
QUICK = "[[sim: full delay=0.1]] Hello"
SLOTS = 5
JOBS = 60
PROBES = 3
SLACK = 0.25
"""Seconds by which the clocks of two processes may differ."""


@contextmanager
def going_away(
    way: type[Outage], database_url: str, valkey: ValkeyServer, folder: Path, **environment: str
) -> Iterator[OutageStack]:
    settings = {"BACKBURNER_WORKER_CONCURRENCY": str(SLOTS), **environment}
    stack = OutageStack(database_url, valkey.url, folder, settings)
    stack.way = way
    with stack:
        stack.set_provider(native_background=environment.get("BACKBURNER_PROVIDER_TRANSPORT") == "background")
        yield stack


def readiness(stack: Stack) -> tuple[int, dict[str, Any]]:
    answer = httpx.get(f"{stack.url}/readyz", timeout=20)
    body: dict[str, Any] = answer.json()
    return answer.status_code, body


def attempts(stack: Stack, jobs: list[str]) -> list[dict[str, Any]]:
    made = [attempt for job in jobs for attempt in stack.attempts(job)]
    return sorted(made, key=lambda each: float(each["started_at"]))


def billed(stack: Stack) -> int:
    return sum(call["http_status"] == 200 for call in stack.calls())


def create(stack: Stack, **fields: Any) -> httpx.Response:
    with stack.http() as http:
        return http.post("/responses", json={"model": MODEL, "input": "Hello", **fields})


def paused_at(stack: Stack) -> datetime:
    database = Database(stack.database_url)
    with database.read() as tx:
        found: datetime = tx.execute(select(schema.provider_limits.c.paused_at)).scalar_one()
    database.close()
    return found


def every(stack: Stack) -> list[dict[str, Any]]:
    """Return all responses; there are fewer than a page holds."""
    with stack.http() as http:
        found: list[dict[str, Any]] = http.get("/responses", params={"limit": "100"}).json()["data"]
    return found


def probes_since(stack: Stack, paused_at: datetime) -> int:
    database = Database(stack.database_url)
    with database.read() as tx:
        began = tx.execute(select(schema.attempts.c.started_at)).scalars().all()
    database.close()
    return sum(each > paused_at + timedelta(seconds=SLACK) for each in began)


def assert_probed(before: datetime, made: list[dict[str, Any]]) -> None:
    """Only the calls that were under way went out before the pause, and each later one after its own pause."""
    moments = [float(each["started_at"]) - before.timestamp() for each in made]
    probes = [moment for moment in moments if moment > SLACK]
    assert len(made) - len(probes) <= SLOTS + 3, "calls went out after the first were refused"
    pauses = [probes[0], *(later - earlier for earlier, later in pairwise(probes))]
    assert all(pause >= at_least - SLACK for pause, at_least in zip(pauses, (1, 1, 2, 4, 8, 16), strict=False)), pauses
    asked_for = [each["id"].partition(":")[0] for each in made[-len(probes) :]]
    assert all(one != other for one, other in pairwise(asked_for)), "one response was every probe"


@pytest.mark.parametrize(
    ("way", "reason", "words"),
    [
        (Refused, "unreachable", "connection refused"),
        (Unavailable, "overloaded", "HTTP 503"),
        (Overloaded, "overloaded", "HTTP 529"),
        (Limited, "rate_limited", "HTTP 429"),
        pytest.param(Nameless, "unreachable", "its name was not resolved", marks=needs_compiler),
        (Expired, "unreachable", "its certificate is not trusted (certificate has expired)"),
    ],
)
def test_jobs_wait_for_the_end_of_an_outage(
    sqlite_url: str, valkey: ValkeyServer, tmp_path: Path, way: type[Outage], reason: str, words: str
) -> None:
    with going_away(way, sqlite_url, valkey, tmp_path) as stack:
        _outage(stack, reason, words)


@pytest.mark.parametrize("transport", ["stream", "background"])
@pytest.mark.parametrize(
    ("way", "reason", "words"),
    [(Refused, "unreachable", "connection refused"), (Unavailable, "overloaded", "HTTP 503")],
)
def test_so_they_do_on_postgresql_whatever_the_transport(
    postgres_url: str,
    valkey: ValkeyServer,
    tmp_path: Path,
    way: type[Outage],
    reason: str,
    words: str,
    transport: str,
) -> None:
    with going_away(way, postgres_url, valkey, tmp_path, BACKBURNER_PROVIDER_TRANSPORT=transport) as stack:
        _outage(stack, reason, words)


def _outage(stack: OutageStack, reason: str, words: str) -> None:
    stack.outage.begin()
    jobs = stack.submit_many(JOBS, "Hello", max_attempts=1)
    with ThreadPoolExecutor(2) as pool:
        held, streamed = pool.submit(create, stack), pool.submit(create, stack, stream=True)
        try:
            _while_it_lasts(stack, jobs, reason, words)
        finally:
            stack.outage.end()
        stack.await_all(jobs, "completed", 60)
        assert held.result(60).json()["status"] == "completed"
        assert streamed.result(60).text.count("event: response.completed") == 1
    assert billed(stack) == JOBS + 2
    log = stack.worker_processes[0].output
    assert len(re.findall("provider paused", log)) == len(re.findall("provider resumed", log)) == 1
    assert readiness(stack)[0] == 200


def _while_it_lasts(stack: OutageStack, jobs: list[str], reason: str, words: str) -> None:
    await_until(lambda: readiness(stack)[1]["provider"]["reason"] == reason, 30, stack.logs)
    assert readiness(stack)[1]["missing"] == ["provider"]
    began_at = paused_at(stack)
    waiting_for = stack.get(jobs[-1])["backburner"]["waiting_for"]
    assert re.search(r"^provider .+ since \d\d:\d\d UTC, next try (in \d+ s|now)$", waiting_for), waiting_for
    assert f"({words})" in waiting_for
    await_until(lambda: probes_since(stack, began_at) >= PROBES, 40, "it was not probed")
    everything = every(stack)
    during = attempts(stack, [each["id"] for each in everything])
    assert_probed(began_at, during)
    assert {each["outcome"] for each in during} <= {"failed", None}
    assert {each["status"] for each in everything} <= {"queued", "in_progress"}
    assert billed(stack) == 0


def test_an_outage_is_said_wherever_one_looks(sqlite_url: str, valkey: ValkeyServer, tmp_path: Path) -> None:
    with going_away(Refused, sqlite_url, valkey, tmp_path) as stack:
        stack.outage.begin()
        jobs = stack.submit_many(JOBS // 4, "Hello")
        await_until(lambda: readiness(stack)[1]["provider"]["reason"] == "unreachable", 30, stack.logs)
        words = "provider unreachable (connection refused) since "
        assert readiness(stack)[1]["provider"]["state"].startswith(words)
        assert "backburner_provider_active 0.0" in httpx.get(f"{stack.url}/metrics").text
        assert all(each["backburner"]["waiting_for"].startswith(words) for each in every(stack))
        client = {"base_url": stack.base_url, "api_key": API_KEY}
        for verb in (["get", jobs[0]], ["list"]):
            assert words in " ".join(run(*verb, cwd=tmp_path, **client).stdout.split())
        ours = {name.removeprefix("BACKBURNER_").lower(): value for name, value in stack.settings().items()}
        doctor = run("doctor", cwd=tmp_path, **{name: value for name, value in ours.items() if name.islower()})
        assert f"paused: {words}" in " ".join(doctor.stdout.split()), doctor.stdout
        stack.outage.end()
        stack.await_all(jobs, "completed", 60)
        assert "backburner_provider_active 1.0" in httpx.get(f"{stack.url}/metrics").text
        worker = stack.worker_processes[0]
        assert "connection refused" in worker.match(r".*provider paused.*")[0]
        assert "seconds" in worker.match(r".*provider resumed.*")[0]


@needs_compiler
def test_when_half_of_the_connections_are_refused_work_goes_on(
    sqlite_url: str, valkey: ValkeyServer, tmp_path: Path
) -> None:
    with going_away(HalfRefused, sqlite_url, valkey, tmp_path) as stack:
        stack.outage.begin()
        jobs = stack.submit_many(JOBS, QUICK, max_attempts=1)
        stack.await_all(jobs, "completed", 60)
        assert billed(stack) == JOBS


def test_a_pause_asked_for_beyond_the_deadline_fails_nothing_early(
    sqlite_url: str, valkey: ValkeyServer, tmp_path: Path
) -> None:
    with Stack(sqlite_url, valkey.url, tmp_path) as stack:
        [job] = stack.submit_many(1, "[[sim: 429 x1 retry-after=86400, then full]] Hello", deadline_seconds=20)
        stack.await_all([job], "completed", 25)
        assert len(stack.calls(job)) == 2
