"""A provider's outage is not the jobs' fault: whatever it lasts, they wait, use no attempt, and run when it is over.

The simulator's ledger counts the purchases, the rows of attempts the calls.
"""

import re
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any

import httpx
import pytest

from tests.support.certificates import DAY, Authority
from tests.support.gated import GatedStack
from tests.support.stack import Stack
from tests.support.tls_line import TlsLine
from tests.support.valkey import ValkeyServer
from tests.support.waiting import await_until

pytestmark = [pytest.mark.one_database, pytest.mark.long]
QUICK = "[[sim: full delay=0.1]] Hello"
SLOTS = 5
JOBS = 60
PROBES = 3


@pytest.fixture
def stack(database_url: str, valkey: ValkeyServer, tmp_path: Path) -> Iterator[GatedStack]:
    environment = {"BACKBURNER_WORKER_CONCURRENCY": str(SLOTS)}
    with GatedStack(database_url, valkey.url, tmp_path, environment) as stack, stack.gate:
        yield stack


def readiness(stack: Stack) -> tuple[int, dict[str, Any]]:
    answer = httpx.get(f"{stack.url}/readyz")
    body: dict[str, Any] = answer.json()
    return answer.status_code, body


def attempts(stack: Stack, jobs: list[str]) -> list[dict[str, Any]]:
    return [attempt for job in jobs for attempt in stack.attempts(job)]


def bought(stack: Stack) -> int:
    return sum(call["http_status"] == 200 for call in stack.calls())


@pytest.mark.parametrize(
    ("begin", "end", "reason"),
    [
        (lambda stack: stack.gate.shut(), lambda stack: stack.gate.open(), "unreachable"),
        (lambda stack: stack.tell(script="503"), lambda stack: stack.tell(script="full"), "overloaded"),
        (lambda stack: stack.tell(script="529"), lambda stack: stack.tell(script="full"), "overloaded"),
        (lambda stack: stack.tell(script="429"), lambda stack: stack.tell(script="full"), "rate_limited"),
    ],
    ids=["connection refused", "503", "529", "429"],
)
def test_jobs_wait_for_the_end_of_an_outage(
    stack: GatedStack, begin: Callable[[GatedStack], None], end: Callable[[GatedStack], None], reason: str
) -> None:
    begin(stack)
    jobs = stack.submit_many(JOBS, "Hello", max_attempts=1)
    await_until(lambda: readiness(stack)[1]["provider"]["reason"] == reason, 20, stack.logs)
    assert readiness(stack)[1]["missing"] == ["provider"]
    waiting_for = stack.get(jobs[-1])["backburner"]["waiting_for"]
    assert waiting_for.startswith("provider "), waiting_for
    assert re.search(r"\(.+\) since \d\d:\d\d UTC, next try (in \d+ s|now)$", waiting_for)
    before = len(attempts(stack, jobs))
    assert before <= SLOTS + 3, "calls went out after the first were refused"
    await_until(lambda: len(attempts(stack, jobs)) >= before + PROBES, 40, "it was not probed")
    during = attempts(stack, jobs)
    probes = during[before:]
    assert {each["outcome"] for each in during} == {"failed"}
    assert {stack.get(job)["status"] for job in jobs} == {"queued"}
    assert len(probes) <= PROBES + 1
    end(stack)
    ended_at = monotonic()
    stack.await_all(jobs, "completed", 60)
    assert monotonic() - ended_at < 60
    assert bought(stack) == JOBS
    stack.worker_processes[0].match(r"lane closed")
    stack.worker_processes[0].match(r"lane open")
    assert readiness(stack)[0] == 200


def test_when_half_of_the_connections_are_refused_work_goes_on(stack: GatedStack) -> None:
    over = threading.Event()

    def flap() -> None:
        while not over.wait(0.05):
            stack.gate.shut()
            over.wait(0.05)
            stack.gate.open()

    flapping = threading.Thread(target=flap)
    flapping.start()
    try:
        jobs = stack.submit_many(JOBS, QUICK, max_attempts=20)  # the gate also cuts what it has not let in yet
        stack.await_all(jobs, "completed", 60)
    finally:
        over.set()
        flapping.join()
    assert bought(stack) == JOBS


def test_a_pause_asked_for_beyond_the_deadline_fails_nothing_early(stack: GatedStack) -> None:
    [job] = stack.submit_many(1, "[[sim: 429 x1 retry-after=86400, then full]] Hello", deadline_seconds=20)
    stack.await_all([job], "completed", 25)
    assert len(stack.calls(job)) == 2


def test_jobs_wait_for_a_certificate_that_has_expired_to_be_renewed(
    sqlite_url: str, valkey: ValkeyServer, tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
    expired, renewed = (
        authority.sign(name, datetime.now(UTC) + days * DAY) for name, days in (("old", -1), ("new", 1))
    )
    with (
        Stack(sqlite_url, valkey.url, tmp_path, workers=0) as stack,
        TlsLine(int(stack.provider_url.rpartition(":")[2]), expired) as line,
    ):
        stack.environment |= {
            "BACKBURNER_PROVIDER_BASE_URL": f"https://127.0.0.1:{line.port}/v1",
            "SSL_CERT_FILE": str(authority.file),
        }
        stack.start_api()
        stack.start_worker()
        jobs = stack.submit_many(10, "Hello", max_attempts=1)
        await_until(lambda: readiness(stack)[1]["provider"]["reason"] == "unreachable", 20, stack.logs)
        waiting_for = stack.get(jobs[-1])["backburner"]["waiting_for"]
        assert "its certificate is not trusted (certificate has expired)" in waiting_for
        line.present(renewed)
        stack.await_all(jobs, "completed", 60)
        assert bought(stack) == len(jobs)


def test_jobs_wait_while_the_providers_name_is_not_resolved(
    sqlite_url: str, valkey: ValkeyServer, tmp_path: Path
) -> None:
    with Stack(sqlite_url, valkey.url, tmp_path, workers=0) as stack:
        stack.environment["BACKBURNER_PROVIDER_BASE_URL"] = "http://provider.invalid/v1"
        stack.start_api()
        worker = stack.start_worker()
        jobs = stack.submit_many(10, "Hello", max_attempts=1)
        await_until(lambda: readiness(stack)[1]["provider"]["reason"] == "unreachable", 20, stack.logs)
        assert "its name was not resolved" in stack.get(jobs[-1])["backburner"]["waiting_for"]
        assert {stack.get(job)["status"] for job in jobs} == {"queued"}
        worker.stop()
        del stack.environment["BACKBURNER_PROVIDER_BASE_URL"]  # no name comes back for a test: another takes its place
        stack.start_api()
        stack.start_worker()
        stack.await_all(jobs, "completed", 60)
        assert bought(stack) == len(jobs)
