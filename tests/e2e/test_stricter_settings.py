"""The main job under other settings of the operator, with a database and a worker of its own."""

import signal
import time
from collections.abc import Iterator

import pytest

from tests.e2e.trip import error_code, facts, run
from tests.support.stack import Stack
from tests.support.valkey import ValkeyServer
from tests.support.waiting import await_until

pytestmark = pytest.mark.one_database


@pytest.fixture(scope="module")
def stack(database_url_of_module: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    environment = {
        "BACKBURNER_TRUNCATION_ON_OVERFLOW": "auto",
        "BACKBURNER_CALL_DEADLINE_SECONDS": "2",
        "BACKBURNER_MAX_ATTEMPTS": "2",
        "BACKBURNER_MODELS": "openai/o3-pro,some/other-model",
    }
    data_dir = tmp_path_factory.mktemp("stack")
    with ValkeyServer() as valkey, Stack(database_url_of_module, valkey.url, data_dir, environment) as stack:
        yield stack


def test_an_overflow_is_tried_once_more_with_auto(stack: Stack) -> None:
    done = run(stack, "[[sim: overflow]] Hello")
    assert done.status == "completed", done.error
    assert done.truncation == "auto"
    assert facts(done)["truncation_applied"] == "auto"
    assert [each["truncation"] for each in stack.attempts(done.id)] == ["disabled", "auto"]
    assert len(stack.calls(done.id)) == 2


def test_a_hanging_call_ends_at_its_own_deadline(stack: Stack) -> None:
    done = run(stack, "[[sim: half-open, then full]] Hello")
    assert done.status == "completed"
    first, _second = stack.attempts(done.id)
    assert first["error"]["kind"] == "call_deadline"
    assert 2 <= first["ended_at"] - first["started_at"] < 4


def test_an_answer_that_came_while_the_worker_was_held_up_past_the_deadline_is_taken(stack: Stack) -> None:
    with stack.http() as http:
        body = {"model": "openai/o3-pro", "input": "[[sim: full delay=1]] Hello", "background": True}
        job_id = http.post("/responses", json=body).raise_for_status().json()["id"]
        await_until(lambda: stack.calls(job_id), 10, stack.logs)
        stack.worker_processes[0].signal(signal.SIGSTOP)
        await_until(lambda: stack.calls(job_id)[0]["outcome"] == "answered", 10, stack.logs)
        overdue_at = time.monotonic() + 2
        await_until(lambda: time.monotonic() > overdue_at, 10, "time stands still")
        stack.worker_processes[0].signal(signal.SIGCONT)
        done = http.get(f"/responses/{job_id}", params={"wait": 10}).raise_for_status().json()
    assert done["status"] == "completed"
    assert len(stack.calls(job_id)) == 1


def test_a_slow_drip_is_no_way_around_the_deadline(stack: Stack) -> None:
    done = run(stack, "[[sim: slow]] Hello")
    assert error_code(done) == "deadline_exceeded"
    assert len(stack.calls(done.id)) == 2
