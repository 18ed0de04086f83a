"""A provider that is away for seconds, so that `make test` shows the rule; `test_outages.py` has the long ones."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic
from typing import Any

import httpx
import pytest

from tests.support.gated import GatedStack
from tests.support.stack import MODEL
from tests.support.valkey import ValkeyServer
from tests.support.waiting import await_until

SLOTS = 5
JOBS = 10
WAYS: tuple[tuple[str, Callable[[GatedStack], Any], Callable[[GatedStack], Any]], ...] = (
    ("unreachable", lambda stack: stack.gate.shut(), lambda stack: stack.gate.open()),
    (
        "overloaded",
        lambda stack: stack.set_provider(script="503"),
        lambda stack: stack.set_provider(script="full"),
    ),
)


@pytest.fixture
def stack(sqlite_url: str, valkey: ValkeyServer, tmp_path: Path) -> Iterator[GatedStack]:
    environment = {
        "BACKBURNER_WORKER_CONCURRENCY": str(SLOTS),
        "BACKBURNER_HELD_PATIENCE_SECONDS": "1",
    }
    with GatedStack(sqlite_url, valkey.url, tmp_path, environment) as stack, stack.gate:
        yield stack


def create(stack: GatedStack, **fields: Any) -> httpx.Response:
    with stack.http() as http:
        return http.post("/responses", json={"model": MODEL, "input": "Hello", **fields})


def reason(stack: GatedStack) -> str | None:
    found: str | None = httpx.get(f"{stack.url}/readyz").json()["provider"]["reason"]
    return found


def calls_made(stack: GatedStack, jobs: list[str]) -> int:
    return sum(len(stack.attempts(each)) for each in jobs)


def test_an_outage_costs_no_response_anything(stack: GatedStack) -> None:
    """Neither refused connections nor 503 cost an attempt, and a held client learns that nothing was billed."""
    billed = 0
    for kind, begin, end in WAYS:
        begin(stack)
        began_at = monotonic()
        jobs = stack.submit_many(JOBS, "Hello", max_attempts=1)
        with ThreadPoolExecutor(2) as pool:
            held, streamed = pool.submit(create, stack), pool.submit(create, stack, stream=True)
            await_until(lambda kind=kind: reason(stack) == kind, 10, stack.logs)  # type: ignore[misc]  # mypy infers no type for a default
            made = calls_made(stack, jobs)
            refused, events = held.result(), streamed.result()
        assert made <= SLOTS + 3, f"{kind}: calls went out after the first were refused"
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "provider_unavailable"), refused.text
        assert '"code":"provider_unavailable"' in events.text.rpartition("event: response.failed")[2]
        assert {stack.get(job)["status"] for job in jobs} == {"queued"}
        probes = int(monotonic() - began_at).bit_length()  # after 1, 2, 4, 8 s
        assert calls_made(stack, jobs) <= made + probes, f"{kind}: more than a call a probe"
        end(stack)
        stack.await_all(jobs, "completed", 15)
        turned_away = [each.headers["openai-response-id"] for each in (refused, events)]
        assert {stack.get(each)["status"] for each in turned_away} == {"failed"}
        billed += JOBS
        assert sum(call["http_status"] == 200 for call in stack.calls()) == billed
