"""Processes are killed, stopped and flushed under load; then the rows and the provider's calls are compared."""

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.postgres import PostgresServer
from tests.support.stack import Stack
from tests.support.valkey import ValkeyServer
from tests.support.waiting import await_until

WORKER_TIMEOUT = 3
RECOVERY_SECONDS = WORKER_TIMEOUT + 5


@pytest.fixture
def stack(database_url: str, valkey: ValkeyServer, tmp_path: Path) -> Iterator[Stack]:
    environment = {"BACKBURNER_WORKER_TIMEOUT_SECONDS": str(WORKER_TIMEOUT)}
    with Stack(database_url, valkey.url, tmp_path, environment) as stack:
        yield stack


def await_call(stack: Stack, job_id: str, number: int = 1) -> None:
    await_until(lambda: len(stack.calls(job_id)) >= number, 20, lambda: f"call {number} never came\n{stack.logs()}")


def test_a_killed_workers_jobs_run_again_elsewhere(stack: Stack) -> None:
    jobs = [stack.submit("[[sim: full delay=60, then full]] Hello") for _ in range(20)]
    for job_id in jobs:
        await_call(stack, job_id)
    stack.worker_processes[0].kill()
    killed_at = time.monotonic()
    stack.start_worker()
    stack.await_all(jobs, "completed", RECOVERY_SECONDS + 10)
    assert time.monotonic() - killed_at < RECOVERY_SECONDS + 10
    for job_id in jobs:
        lost, completed = stack.attempts(job_id)
        assert (lost["outcome"], lost["may_have_been_billed"]) == ("lost", True)
        assert completed["outcome"] == "completed"
        assert len(stack.calls(job_id)) == 2


@pytest.mark.one_database
def test_an_answer_is_recorded_at_once_while_the_broker_hangs(stack: Stack, valkey: ValkeyServer) -> None:
    """Publishing the first one takes seconds then. A worker that dies in that time would lose billed answers."""
    jobs = [stack.submit(f"[[sim: full delay={delay}]] Hello") for delay in (2, 2.3)]
    for job_id in jobs:
        await_call(stack, job_id)
    valkey.freeze()
    await_until(lambda: all(stack.calls(each)[0]["outcome"] == "answered" for each in jobs), 10, stack.logs)
    stack.await_all(jobs, "completed", 1.5)
    valkey.thaw()


@pytest.mark.one_database
def test_a_lost_call_of_a_job_that_allows_one_call_is_not_repeated(stack: Stack) -> None:
    job_id = stack.submit("[[sim: full delay=60, then full]] Hello", on_unknown_outcome="fail")
    await_call(stack, job_id)
    stack.worker_processes[0].kill()
    stack.start_worker()
    stack.await_all([job_id], "failed", RECOVERY_SECONDS + 10)
    assert stack.get(job_id)["error"]["code"] == "outcome_unknown"
    assert len(stack.calls(job_id)) == 1


@pytest.mark.one_database
def test_a_paused_workers_late_answer_is_adopted_and_booked(stack: Stack) -> None:
    job_id = stack.submit("[[sim: full delay=2 text=first, then full delay=60 text=second]] Hello")
    await_call(stack, job_id)
    frozen = stack.worker_processes[0]
    frozen.signal(signal.SIGSTOP)
    stack.start_worker()
    await_call(stack, job_id, 2)
    frozen.signal(signal.SIGCONT)
    stack.await_all([job_id], "completed", 10)
    assert stack.get(job_id)["output"][-1]["content"][0]["text"] == "first"
    await_until(lambda: stack.attempts(job_id)[1]["outcome"], 5, "the other attempt was never closed")
    first, second = stack.attempts(job_id)
    assert (first["outcome"], second["outcome"]) == ("completed", "cancelled")
    assert first["cost_usd"] > 0
    await_until(lambda: stack.calls(job_id)[1]["outcome"] == "client_disconnected", 5, "the other call was never ended")


@pytest.mark.one_database
def test_a_stopping_worker_lets_its_calls_finish_and_claims_no_more(stack: Stack) -> None:
    running = stack.submit("[[sim: full delay=1.5]] Hello")
    await_call(stack, running)
    worker = stack.worker_processes[0]
    worker.signal(signal.SIGTERM)
    await_until(lambda: "Warm shutdown" in worker.output, 5, "it never heard the signal")
    waiting = stack.submit("Hello")
    await_until(lambda: worker.popen.poll() is not None, 15, lambda: f"it never stopped\n{stack.logs()}")
    assert stack.get(running)["status"] == "completed"
    assert stack.get(waiting)["status"] == "queued"
    assert stack.calls(waiting) == []
    stack.start_worker()
    stack.await_all([waiting], "completed", 20)
    assert len(stack.calls(running)) == 1


@pytest.mark.one_database
def test_a_call_that_outlasts_the_grace_is_released_without_a_failure(stack: Stack) -> None:
    job_id = stack.submit("[[sim: full delay=60, then full]] Hello", max_attempts=1)
    await_call(stack, job_id)
    worker = stack.worker_processes[0]
    worker.signal(signal.SIGTERM)
    await_until(lambda: worker.popen.poll() is not None, 15, lambda: f"it never stopped\n{stack.logs()}")
    assert stack.get(job_id)["status"] == "queued"
    stack.start_worker()
    stack.await_all([job_id], "completed", 20)
    assert [each["outcome"] for each in stack.attempts(job_id)] == ["released", "completed"]


@pytest.mark.one_database
def test_a_flushed_broker_is_refilled(stack: Stack, valkey: ValkeyServer) -> None:
    stack.worker_processes[0].stop()
    jobs = [stack.submit("[[sim: full]] Hello") for _ in range(30)]
    valkey.flush()
    stack.start_worker()
    stack.await_all(jobs, "completed", 25)
    assert len(stack.calls()) == len(jobs)


@pytest.mark.one_database
def test_submits_are_accepted_while_the_broker_is_away(stack: Stack, valkey: ValkeyServer) -> None:
    before = stack.submit("[[sim: full delay=3]] Hello")
    await_call(stack, before)
    valkey.stop()
    jobs = [stack.submit("[[sim: full]] Hello") for _ in range(10)]
    valkey.start()
    stack.await_all([before, *jobs], "completed", 40)
    assert len(stack.calls()) == len(jobs) + 1


def test_a_killed_api_loses_nothing_it_has_confirmed(stack: Stack) -> None:
    job_id = stack.submit("[[sim: full delay=1]] Hello")
    stack.api.kill()
    stack.start_api()
    stack.await_all([job_id], "completed", 20)
    assert len(stack.calls(job_id)) == 1


@pytest.mark.long
def test_a_database_that_is_long_away_costs_no_answer_and_no_second_call(valkey: ValkeyServer, tmp_path: Path) -> None:
    """All workers are silent together for longer than the timeout, and none of them is marked dead."""
    environment = {"BACKBURNER_WORKER_TIMEOUT_SECONDS": str(WORKER_TIMEOUT)}
    with PostgresServer() as postgres, Stack(postgres.url, valkey.url, tmp_path, environment, workers=2) as stack:
        outlasting = [stack.submit(f"[[sim: full delay={4 * WORKER_TIMEOUT + 2}]] Hello") for _ in range(10)]
        ended_meanwhile = [stack.submit("[[sim: full delay=2]] Hello") for _ in range(10)]
        outage = stack.submit(f"[[sim: full delay={2 * WORKER_TIMEOUT + 2}]] Hello")  # the last, so that it is long
        jobs = [outage, *ended_meanwhile, *outlasting]
        for job_id in jobs:
            await_call(stack, job_id)
        postgres.stop()
        await_until(lambda: httpx.get(f"{stack.url}/readyz").status_code == 503, 10, "nobody noticed")
        await_until(lambda: stack.calls(outage)[0]["outcome"] == "answered", 15, "the answer never came")
        postgres.start()
        stack.await_all(jobs, "completed", 60)
        assert len(stack.calls()) == len(jobs)
        assert "worker marked dead" not in stack.logs()
