"""One job that the provider refuses in the account's words, among many that it takes: nobody else waits for it."""

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import httpx
import pytest

from jobs.store.database import Database, database_now
from jobs.store.keys import create_key
from tests.support.stack import MODEL, PROVIDER_KEY, Stack
from tests.support.valkey import ValkeyServer
from tests.support.waiting import await_until

NEIGHBOURS = 50
KEYS = 5
SLOTS = 10
REFUSALS = {
    "401 about a tool": '401 message="not permitted to use the tool"',
    "403 about a tool": '403 message="not permitted to use the tool"',
    "402": "402",
    "401 as of a bad key": "401",
    "403 as of an empty account": "403",
    "429 as of an empty quota": "429-quota",
}


@pytest.fixture
def stack(tmp_path: Path, valkey: ValkeyServer) -> Iterator[Stack]:
    environment = {"BACKBURNER_WORKER_CONCURRENCY": str(SLOTS)}
    with Stack(f"sqlite:///{tmp_path}/backburner.db", valkey.url, tmp_path, environment) as stack:
        yield stack


def keys(stack: Stack) -> list[str]:
    database = Database(stack.database_url)
    with database.begin() as tx:
        now = database_now(tx)
        secrets = [create_key(tx, f"tenant {number}", None, now)[1] for number in range(KEYS)]
    database.close()
    return secrets


def submit(stack: Stack, secret: str, prompt: str, **fields: object) -> str:
    body = {"model": MODEL, "input": prompt, "background": True, **fields}
    headers = {"authorization": f"Bearer {secret}"}
    answer = httpx.post(f"{stack.base_url}/responses", json=body, headers=headers, timeout=30)
    job_id: str = answer.raise_for_status().json()["id"]
    return job_id


def status(stack: Stack, secret: str, job_id: str) -> dict[str, object]:
    answer = httpx.get(f"{stack.base_url}/responses/{job_id}", headers={"authorization": f"Bearer {secret}"})
    found: dict[str, object] = answer.raise_for_status().json()
    return found


@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS.keys())
def test_one_refused_job_stops_nobody_else(stack: Stack, refusal: str) -> None:
    secrets = keys(stack)
    before = submit(stack, secrets[1], "[[sim: full delay=0.1]] Hello")
    await_until(lambda: status(stack, secrets[1], before)["status"] == "completed", 20, stack.logs)
    poison = submit(stack, secrets[0], f"[[sim: {refusal}]] Hello", priority=9)
    neighbours = [
        (secrets[number % KEYS], submit(stack, secrets[number % KEYS], "[[sim: full delay=0.5]] Hello"))
        for number in range(NEIGHBOURS)
    ]

    def all_there() -> bool:
        return all(status(stack, *each)["status"] == "completed" for each in neighbours)

    await_until(all_there, 60, stack.logs)

    def refused_for_good() -> bool:
        submit(stack, secrets[2], "[[sim: full delay=0.1]] Hello")  # who comes later is evidence as well
        return status(stack, secrets[0], poison)["status"] == "failed"

    await_until(refused_for_good, 40, stack.logs)
    failed = status(stack, secrets[0], poison)
    assert failed["error"]["code"] == "provider_rejected"  # type: ignore[index]
    assert len(stack.calls(poison)) <= 3
    assert "lane closed" not in stack.logs()
    assert all(len(stack.calls(job_id)) == 1 for _, job_id in neighbours)


def test_an_account_that_is_refused_to_all_waits_and_comes_back_by_itself(stack: Stack) -> None:
    secrets = keys(stack)
    stack.tell(bad_keys=[PROVIDER_KEY])
    jobs = [(secrets[number % KEYS], submit(stack, secrets[number % KEYS], "Hello")) for number in range(20)]
    await_until(lambda: httpx.get(f"{stack.url}/readyz").status_code == 503, 10, stack.logs)
    first = len(stack.calls())
    await_until(lambda: len(stack.calls()) >= first + 3, 30, stack.logs)
    probes = stack.calls()[first:]
    moments = [json.dumps(call["received_at"]) for call in probes]
    assert len(set(moments)) == len(moments)
    assert {status(stack, *each)["status"] for each in jobs} == {"queued"}
    asked_for = [str(call["client_request_id"]).partition(":")[0] for call in probes]
    assert all(one != other for one, other in pairwise(asked_for))  # another job each time
    stack.tell(bad_keys=[])
    await_until(lambda: all(status(stack, *each)["status"] == "completed" for each in jobs), 35, stack.logs)
