"""The cost of a lost answer is read from the provider's own log, which is late and lacks rows.

All tests share one stack, so each takes only as long as it waits. The log's own faults are in
`tests/provider/test_reconciler.py`.
"""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.stack import Stack
from tests.support.valkey import ValkeyServer
from tests.support.waiting import await_until

pytestmark = pytest.mark.long

MAX_WAIT = 10


@pytest.fixture(scope="module")
def stack(database_url_of_module: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    environment = {
        "BACKBURNER_WORKER_TIMEOUT_SECONDS": "3",
        "BACKBURNER_RECONCILE_AFTER_SECONDS": "1",
        "BACKBURNER_RECONCILE_PATIENCE_SECONDS": str(MAX_WAIT),
    }
    data_dir = tmp_path_factory.mktemp("stack")
    with ValkeyServer() as valkey, Stack(database_url_of_module, valkey.url, data_dir, environment) as stack:
        yield stack


def await_status(stack: Stack, job_id: str, status: str) -> dict[str, Any]:
    return await_until(lambda: body if (body := stack.get(job_id))["status"] == status else None, 30, stack.logs)


def await_billed(stack: Stack, job_id: str, billed: str) -> None:
    await_until(lambda: stack.attempts(job_id)[0]["billed"] == billed, 20, stack.logs)


def test_a_killed_workers_calls_are_booked_at_their_true_cost(stack: Stack) -> None:
    """One job wants a retry, the other one call at most: it ends once the log shows that its call was billed."""
    stack.set_provider(bill_disconnects=True, logs_lag=2)
    again = stack.submit("[[sim: full delay=60, then full]] Hello")
    once = stack.submit("[[sim: full delay=60, then full]] Hello", on_unknown_outcome="fail")
    await_until(lambda: stack.calls(again) and stack.calls(once), 20, stack.logs)
    stack.worker_processes.pop().kill()
    stack.worker_processes.append(stack.start_worker())
    completed = await_status(stack, again, "completed")
    failed = await_status(stack, once, "failed")
    assert failed["error"]["code"] == "outcome_unknown"
    assert "ran and was billed" in failed["error"]["message"]
    await_billed(stack, again, "yes")
    for job_id in (again, once):
        lost = stack.attempts(job_id)[0]
        assert (lost["outcome"], lost["billed"]) == ("lost", "yes")
        assert lost["cost_usd"] == pytest.approx(stack.calls(job_id)[0]["cost_usd"], abs=1e-6)
        total = stack.get(job_id)["backburner"]["cost_usd"]
        assert total == pytest.approx(sum(each["cost_usd"] for each in stack.attempts(job_id)), abs=1e-6)
    assert (len(stack.calls(again)), len(stack.calls(once))) == (2, 1)
    assert completed["error"] is None
    stack.set_provider(bill_disconnects=False, logs_lag=0)


def test_a_call_that_the_log_shows_as_failed_is_repeated_by_who_pays_once(stack: Stack) -> None:
    stack.set_provider(logs_lag=1)
    job_id = stack.submit("[[sim: drop, then full]] Hello", on_unknown_outcome="fail", max_attempts=2)
    waiting = await_until(
        lambda: body if (body := stack.get(job_id))["backburner"]["parked_until"] else None, 20, stack.logs
    )
    facts = waiting["backburner"]
    assert (waiting["status"], facts["queue_position"], facts["next_attempt_at"]) == ("queued", None, None)
    assert facts["error"]["kind"] == "interrupted"
    done = await_status(stack, job_id, "completed")
    assert done["backburner"]["parked_until"] is None
    assert [(each["outcome"], each["billed"]) for each in stack.attempts(job_id)] == [
        ("failed", "no"),
        ("completed", "yes"),
    ]
    assert sum(call["billed"] for call in stack.calls(job_id)) == 1
    stack.set_provider(logs_lag=0)


def test_a_call_missing_from_the_log_fails_after_the_max_wait(stack: Stack) -> None:
    stack.set_provider(logs_missing=1)
    hidden = stack.submit("[[sim: drop, then full]] Hello", on_unknown_outcome="fail")
    cancelled = stack.submit("[[sim: drop, then full]] Hello", on_unknown_outcome="fail")
    await_until(lambda: stack.get(cancelled)["backburner"]["parked_until"], 20, stack.logs)
    assert stack.openai().responses.cancel(cancelled).status == "cancelled"
    failed = await_status(stack, hidden, "failed")
    assert failed["error"]["code"] == "outcome_unknown"
    assert "may have been billed" in failed["error"]["message"]
    assert failed["completed_at"] - failed["created_at"] >= MAX_WAIT
    assert stack.attempts(hidden)[0]["billed"] == "unknown"
    stack.set_provider(logs_missing=0)
    await_billed(stack, hidden, "no")
    assert stack.get(hidden)["status"] == "failed"
    assert (stack.get(cancelled)["status"], len(stack.calls(cancelled))) == ("cancelled", 1)
