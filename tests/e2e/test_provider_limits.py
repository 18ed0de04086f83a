"""The provider limit over two worker processes: refused jobs wait and use no attempt.

The simulator's call log counts the calls.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.stack import PROVIDER_KEY, Stack
from tests.support.valkey import ValkeyServer
from tests.support.waiting import await_until

pytestmark = pytest.mark.long

QUICK = "[[sim: full delay=0.1]] Hello"
SLOTS = 10


@pytest.fixture
def stack(database_url: str, valkey: ValkeyServer, tmp_path: Path) -> Iterator[Stack]:
    environment = {"BACKBURNER_WORKER_CONCURRENCY": str(SLOTS)}
    with Stack(database_url, valkey.url, tmp_path, environment, workers=2) as stack:
        yield stack


def readiness(stack: Stack) -> tuple[int, dict[str, Any]]:
    answer = httpx.get(f"{stack.url}/readyz")
    body: dict[str, Any] = answer.json()
    return answer.status_code, body


@pytest.mark.parametrize(
    ("broken", "mended", "reason"),
    [
        ({"bad_keys": [PROVIDER_KEY]}, {"bad_keys": []}, "bad_credentials"),
        ({"balance": 0}, {"balance": None}, "out_of_credit"),
    ],
)
def test_refused_for_key_or_credit_jobs_wait_and_use_no_attempts(
    stack: Stack, broken: dict[str, Any], mended: dict[str, Any], reason: str
) -> None:
    stack.set_provider(**broken)
    [first] = stack.submit_many(1, QUICK, max_attempts=1)
    await_until(lambda: readiness(stack)[0] == 503, 10, lambda: f"the provider was never paused\n{stack.logs()}")
    jobs = [first, *stack.submit_many(20, QUICK, max_attempts=1)]
    await_until(lambda: len(stack.calls()) >= 3, 15, "it was not probed")
    status, body = readiness(stack)
    assert (status, body["missing"]) == (503, ["provider"])
    state = body["provider"].pop("state")
    assert re.fullmatch(r"provider .+ since \d\d:\d\d UTC, next try (in \d+ s|now)", state), state
    assert body["provider"] == {"limit": "paused", "reason": reason, "max_calls": None}
    assert "backburner_provider_active 0.0" in httpx.get(f"{stack.url}/metrics").text
    assert {each["status"] for each in map(stack.get, jobs)} == {"queued"}
    refused = len(stack.calls())
    assert refused <= 5
    stack.set_provider(**mended)
    stack.await_all(jobs, "completed", 30)
    assert len(stack.calls()) <= len(jobs) + refused + 1
    assert readiness(stack)[0] == 200


def test_a_deadline_that_passes_while_the_provider_is_paused_says_why(stack: Stack) -> None:
    stack.set_provider(bad_keys=[PROVIDER_KEY])
    [first] = stack.submit_many(1, QUICK)
    await_until(lambda: readiness(stack)[0] == 503, 10, lambda: f"the provider was never paused\n{stack.logs()}")
    late = stack.submit_many(3, QUICK, deadline_seconds=2)
    stack.await_all(late, "failed", 10)
    for body in map(stack.get, late):
        assert body["error"]["code"] == "deadline_exceeded"
    stack.set_provider(bad_keys=[])
    stack.await_all([first], "completed", 30)


def test_a_probe_that_goes_on_resumes_the_provider_before_it_answers(stack: Stack) -> None:
    stack.set_provider(bad_keys=[PROVIDER_KEY])
    slow = stack.submit_many(8, "[[sim: full delay=12]] Hello")
    await_until(lambda: readiness(stack)[0] == 503, 10, lambda: f"the provider was never paused\n{stack.logs()}")
    stack.set_provider(bad_keys=[])
    await_until(
        lambda: sum(call["outcome"] == "running" for call in stack.calls()) == len(slow),
        15,
        lambda: f"the others wait for the probe's answer\n{stack.logs()}",
    )


def test_too_many_at_once_throttles_the_provider_and_all_complete(stack: Stack) -> None:
    stack.set_provider(max_concurrency=4)
    jobs = stack.submit_many(60, "[[sim: full delay=0.5]] Hello")
    await_until(lambda: readiness(stack)[1]["provider"]["limit"] == "throttled", 10, "it was never throttled")
    stack.await_all(jobs, "completed", 60)
    refused = [call for call in stack.calls() if call["http_status"] == 429]
    assert len(refused) <= len(jobs)


def test_no_more_than_the_operator_allows_are_out(database_url: str, valkey: ValkeyServer, tmp_path: Path) -> None:
    environment = {"BACKBURNER_WORKER_CONCURRENCY": str(SLOTS), "BACKBURNER_PROVIDER_MAX_CALLS": "5"}
    with Stack(database_url, valkey.url, tmp_path, environment, workers=2) as stack:
        jobs = stack.submit_many(40, "[[sim: full delay=0.3]] Hello")
        stack.await_all(jobs, "completed", 40)
        call_log = httpx.get(f"{stack.provider_url}/_calls", params={"limit": "0"}).json()["summary"]
        assert call_log["total"] == len(jobs)
        assert call_log["peak_in_flight"] <= 7
