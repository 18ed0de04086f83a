"""The provider refuses one job in the words of an account error and takes all others: no other job waits."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import httpx
import pytest

from tests.support.stack import MODEL, PROVIDER_KEY, Stack
from tests.support.tenants import REFUSALS, make_tenants
from tests.support.valkey import ValkeyServer
from tests.support.waiting import await_until

pytestmark = pytest.mark.long

NEIGHBOURS = 50
KEYS = 5
SLOTS = 10


@pytest.fixture
def stack(tmp_path: Path, valkey: ValkeyServer) -> Iterator[Stack]:
    environment = {"BACKBURNER_WORKER_CONCURRENCY": str(SLOTS)}
    with Stack(f"sqlite:///{tmp_path}/backburner.db", valkey.url, tmp_path, environment) as stack:
        yield stack


def test_one_refused_job_stops_nobody_else(stack: Stack) -> None:
    """Every kind of refusal, one after the other; none of them pauses the provider."""
    tenants = make_tenants(stack, KEYS)
    before = tenants[1].submit("[[sim: full delay=0.1]] Hello")
    await_until(lambda: tenants[1].status(before) == "completed", 20, stack.logs)
    poisons = [tenants[0].submit(f"[[sim: {refusal}]] Hello", priority=9) for refusal in REFUSALS.values()]
    neighbours = [
        (tenants[number % KEYS], tenants[number % KEYS].submit("[[sim: full delay=0.5]] Hello"))
        for number in range(NEIGHBOURS)
    ]
    await_until(lambda: all(tenant.status(job) == "completed" for tenant, job in neighbours), 60, stack.logs)

    def refused_for_good() -> bool:
        tenants[2].submit("[[sim: full delay=0.1]] Hello")  # who comes later is evidence as well
        return all(tenants[0].status(poison) == "failed" for poison in poisons)

    await_until(refused_for_good, 60, stack.logs)
    for poison in poisons:
        assert tenants[0].get(poison)["error"]["code"] == "provider_rejected"
        assert len(stack.calls(poison)) <= 3
    assert all(len(stack.calls(job)) == 1 for _, job in neighbours)


def test_an_account_that_is_refused_to_all_waits_and_comes_back_by_itself(stack: Stack) -> None:
    tenants = make_tenants(stack, KEYS)
    stack.set_provider(bad_keys=[PROVIDER_KEY])
    jobs = [(tenants[number % KEYS], tenants[number % KEYS].submit("Hello")) for number in range(20)]
    await_until(lambda: httpx.get(f"{stack.url}/readyz").status_code == 503, 10, stack.logs)
    first = len(stack.calls())
    await_until(lambda: len(stack.calls()) >= first + 3, 30, stack.logs)
    probes = stack.calls()[first:]
    moments = [json.dumps(call["received_at"]) for call in probes]
    assert len(set(moments)) == len(moments)
    assert {tenant.status(job) for tenant, job in jobs} == {"queued"}
    asked_for = [str(call["client_request_id"]).partition(":")[0] for call in probes]
    assert all(one != other for one, other in pairwise(asked_for))  # another job each time
    stack.set_provider(bad_keys=[])
    await_until(lambda: all(tenant.status(job) == "completed" for tenant, job in jobs), 35, stack.logs)


def test_it_is_judged_across_a_restart_by_what_other_workers_saw(stack: Stack) -> None:
    """Provider limit and calls are in the database, so each call may be another process's."""
    poison = stack.submit('[[sim: 403 message="not permitted"]] Hello', priority=9)
    await_until(lambda: len(stack.attempts(poison)) >= 1, 20, stack.logs)
    stack.worker_processes[0].stop()
    stack.start_worker()
    stack.start_worker()
    neighbours: list[str] = []

    def has_failed() -> bool:
        neighbours.append(stack.submit("[[sim: full delay=0.1]] Hello"))
        return bool(stack.get(poison)["status"] == "failed")

    await_until(has_failed, 60, stack.logs)
    stack.await_all(neighbours, "completed", 30)
    assert stack.get(poison)["error"]["code"] == "provider_rejected"
    assert len(stack.calls(poison)) <= 4
    billed = Counter(call["client_request_id"].partition(":")[0] for call in stack.calls())
    assert {billed[each] for each in neighbours} == {1}


def test_a_model_that_the_account_may_not_use_holds_no_other_up(tmp_path: Path, valkey: ValkeyServer) -> None:
    """The key's responses wait: none of them is taken, so the account may be to blame."""
    other = "other/model"
    environment = {"BACKBURNER_MODELS": f"{MODEL},{other}", "BACKBURNER_WORKER_CONCURRENCY": str(SLOTS)}
    with Stack(f"sqlite:///{tmp_path}/backburner.db", valkey.url, tmp_path, environment, workers=2) as stack:
        stack.set_provider(models=[MODEL, other])
        stack.await_all(stack.submit_many(3, "[[sim: full delay=0.1]] Hello", model=other), "completed", 20)
        refused = stack.submit_many(20, '[[sim: 403 message="Your plan has no access to this"]] Hello')
        for _ in range(20):  # for longer than it takes for the refused ones to be tried again
            stack.await_all([stack.submit("[[sim: full delay=0.5]] Hello", model=other)], "completed", 10)
            assert httpx.get(f"{stack.url}/readyz").status_code == 200
        shown = [stack.get(each) for each in refused]
        assert {each["status"] for each in shown} <= {"queued", "in_progress"}, "none has failed"
        waiting = [each["backburner"]["waiting_for"] for each in shown if each["status"] == "queued"]
        assert all("no credit (HTTP 403), next try" in each for each in waiting)
        assert waiting


def test_one_refused_job_ends_no_outage(stack: Stack) -> None:
    """The gateway that refuses one job may stand in front of a provider that is still too busy for all others."""
    stack.set_provider(script="503")
    jobs = stack.submit_many(NEIGHBOURS, "Hello", max_attempts=1)
    await_until(lambda: httpx.get(f"{stack.url}/readyz").status_code == 503, 20, stack.logs)
    first = len(stack.calls())
    poison = stack.submit('[[sim: 403 message="not permitted"]] Hello', priority=9)
    await_until(lambda: len(stack.calls(poison)) >= 2, 60, stack.logs)
    assert len(stack.calls()) <= first + 8  # probes, after 1, 1, 2, 4, 8 and 16 s
    assert len(re.findall("provider resumed", stack.worker_processes[0].output)) == 0
    stack.set_provider(script="full")
    stack.await_all(jobs, "completed", 60)

    def has_failed() -> bool:
        stack.submit("[[sim: full delay=0.1]] Hello")
        return bool(stack.get(poison)["status"] == "failed")

    await_until(has_failed, 60, stack.logs)
    assert stack.get(poison)["error"]["code"] == "provider_rejected"
    billed = Counter(
        call["client_request_id"].partition(":")[0] for call in stack.calls() if call["http_status"] == 200
    )
    assert {billed[each] for each in jobs} == {1}
