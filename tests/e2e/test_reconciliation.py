"""What a lost answer cost is found out from the provider's own log, late and with rows missing as it is."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.stack import Stack
from tests.support.valkey import ValkeyServer
from tests.support.waiting import await_until

MODEL = "openai/o3-pro"


@pytest.fixture
def stack(database_url: str, valkey: ValkeyServer, tmp_path: Path) -> Iterator[Stack]:
    environment = {"BACKBURNER_WORKER_TIMEOUT_SECONDS": "3", "BACKBURNER_RECONCILE_AFTER_SECONDS": "1"}
    with Stack(database_url, valkey.url, tmp_path, environment) as stack:
        yield stack


def tell(stack: Stack, **options: Any) -> None:
    httpx.put(f"{stack.provider_url}/_script", json=options).raise_for_status()


def submit(stack: Stack, prompt: str) -> str:
    with stack.http() as http:
        answer = http.post("/responses", json={"model": MODEL, "input": prompt, "background": True})
    job_id: str = answer.raise_for_status().json()["id"]
    return job_id


def get(stack: Stack, path: str) -> dict[str, Any]:
    with stack.http() as http:
        body: dict[str, Any] = http.get(f"/responses/{path}").raise_for_status().json()
    return body


def await_completed(stack: Stack, job_id: str) -> None:
    await_until(lambda: get(stack, job_id)["status"] == "completed", 30, stack.logs)


def first_attempt(stack: Stack, job_id: str) -> dict[str, Any]:
    attempt: dict[str, Any] = get(stack, f"{job_id}/attempts")["data"][0]
    return attempt


def test_a_killed_workers_call_is_booked_at_its_true_cost(stack: Stack) -> None:
    tell(stack, bill_disconnects=True, logs_lag=2)
    job_id = submit(stack, "[[sim: full delay=60, then full]] Hello")
    await_until(lambda: stack.calls(job_id), 20, stack.logs)
    stack.worker_processes[0].kill()
    stack.start_worker()
    await_completed(stack, job_id)
    await_until(lambda: first_attempt(stack, job_id)["billed"] == "yes", 20, stack.logs)
    lost, completed = get(stack, f"{job_id}/attempts")["data"]
    assert lost["outcome"] == "lost"
    assert lost["cost_usd"] == pytest.approx(stack.calls(job_id)[0]["cost_usd"], abs=1e-6)
    total = get(stack, job_id)["backburner"]["cost_usd"]
    assert total == pytest.approx(lost["cost_usd"] + completed["cost_usd"], abs=1e-6)


def test_a_call_that_the_log_says_failed_was_not_billed(stack: Stack) -> None:
    job_id = submit(stack, "[[sim: drop, then full]] Hello")
    await_completed(stack, job_id)
    await_until(lambda: first_attempt(stack, job_id)["billed"] == "no", 20, stack.logs)
    assert first_attempt(stack, job_id)["cost_usd"] is None


def test_what_the_log_never_shows_stays_unknown(stack: Stack) -> None:
    tell(stack, logs_missing=1)
    hidden = submit(stack, "[[sim: drop, then full]] Hello")
    await_completed(stack, hidden)
    tell(stack, logs_missing=0)
    await_until(lambda: first_attempt(stack, hidden)["billed"] == "no", 20, "the row came late and was not found")
