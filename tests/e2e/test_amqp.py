"""The same on RabbitMQ, which delivers messages as they come, whether or not a slot is free."""

import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support import rabbitmq
from tests.support.rabbitmq import RabbitServer
from tests.support.stack import MODEL, Stack
from tests.support.valkey import ValkeyServer
from tests.support.waiting import await_until

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not rabbitmq.is_installed(), reason=rabbitmq.MISSING),
    pytest.mark.xdist_group("rabbitmq"),
]
SLOTS = 20


@pytest.fixture(scope="module")
def broker() -> Iterator[RabbitServer]:
    with RabbitServer() as server:
        yield server


@pytest.fixture
def stack(postgres_url: str, valkey: ValkeyServer, broker: RabbitServer, tmp_path: Path) -> Iterator[Stack]:
    environment = {"BACKBURNER_BROKER_URL": broker.url, "BACKBURNER_WORKER_CONCURRENCY": str(SLOTS)}
    with Stack(postgres_url, valkey.url, tmp_path, environment, workers=2) as stack:
        yield stack


def test_the_sdks_trip(stack: Stack) -> None:
    done = stack.openai().responses.create(model=MODEL, input="[[sim: full text=Forty-two.]] Hello")
    assert done.status == "completed"
    assert done.output_text == "Forty-two."
    assert len(stack.calls(done.id)) == 1


def test_more_jobs_than_slots_each_called_once_and_the_workers_stay_responsive(stack: Stack) -> None:
    jobs = stack.submit_many(300, "[[sim: full delay=0.5]] Hello")
    stack.await_all(jobs, "completed", 90)
    call_log = httpx.get(f"{stack.provider_url}/_calls", params={"limit": "0"}).json()["summary"]
    assert call_log["total"] == len(jobs)
    assert call_log["peak_in_flight"] <= 2 * SLOTS


def test_a_full_worker_still_hears_its_signal(stack: Stack) -> None:
    stack.submit_many(4 * SLOTS, "[[sim: full delay=60]] Hello")
    await_until(lambda: len(stack.calls()) == 2 * SLOTS, 30, lambda: f"not all slots were filled\n{stack.logs()}")
    worker = stack.worker_processes[0]
    worker.popen.terminate()
    await_until(lambda: worker.popen.poll() is not None, 15, lambda: f"it never stopped\n{stack.logs()}")


def test_submits_are_accepted_while_the_broker_restarts(stack: Stack, broker: RabbitServer) -> None:
    before = stack.submit_many(5, "[[sim: full delay=2]] Hello")
    broker.stop()
    started_at = time.monotonic()
    during = stack.submit_many(10, "[[sim: full]] Hello")
    assert time.monotonic() - started_at < 30
    assert httpx.get(f"{stack.url}/readyz").json()["missing"] == ["broker"]
    broker.start()
    after = stack.submit_many(10, "[[sim: full]] Hello")
    stack.await_all([*before, *during, *after], "completed", 60)
    assert len(stack.calls()) == 25
