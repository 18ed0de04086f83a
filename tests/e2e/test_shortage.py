"""A process runs out of files: no job fails because of that, and the shortage is named."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import psutil
import pytest

from jobs.encryption import generate_key
from tests.e2e.test_webhooks import ALL, OPENED
from tests.support.no_files import file_limit, no_more_files
from tests.support.stack import MODEL, Stack
from tests.support.valkey import ValkeyServer
from tests.support.waiting import await_until
from tests.support.webhook_endpoint import Destination

pytestmark = [pytest.mark.one_database, pytest.mark.long]

JOBS = 24
FEW = 8
"""Files that every worker keeps open; fewer than the limit."""
ROOM = 12
"""Files that the worker may open beyond those that it has open when its limit falls."""


@pytest.fixture
def stack(valkey: ValkeyServer, tmp_path: Path) -> Iterator[Stack]:
    sends = {**OPENED, "BACKBURNER_ENCRYPTION_KEYS": generate_key()}
    environment = {"BACKBURNER_WORKER_CONCURRENCY": "200", **sends}
    with Stack(f"sqlite:///{tmp_path}/backburner.db", valkey.url, tmp_path, environment) as started:
        yield started


def warnings(stack: Stack) -> str:
    return " ".join(httpx.get(f"{stack.url}/readyz").json()["warnings"])


def test_a_worker_out_of_files_hands_back_what_it_cannot_send(stack: Stack) -> None:
    worker = psutil.Process(stack.worker_processes[0].popen.pid)
    stack.await_all([stack.submit("[[sim: full delay=0]] Hello")], "completed", 20)
    with no_more_files(worker.pid, ROOM):
        job_ids = stack.submit_many(JOBS, "[[sim: full delay=2]] Hello", max_attempts=1)
        await_until(lambda: "too many open files" in warnings(stack), 20, stack.logs)
        stack.await_all(job_ids, "completed", 60)
    assert len(stack.calls()) == JOBS + 1
    outcomes = {each["outcome"] for job_id in job_ids for each in stack.attempts(job_id)}
    assert outcomes == {"completed", "released"}


def test_answers_that_come_while_no_file_can_be_opened_are_kept(stack: Stack) -> None:
    """The first answers of this worker, because reading the first one used to load a module."""
    worker = psutil.Process(stack.worker_processes[0].popen.pid)
    job_ids = stack.submit_many(3, "[[sim: full delay=1]] Hello")
    stack.await_all(job_ids, "in_progress", 20)
    await_until(lambda: len(stack.calls()) == 3, 20, stack.logs)
    with file_limit(worker.pid, FEW):
        stack.await_all(job_ids, "completed", 30)
    assert [len(stack.calls(job_id)) for job_id in job_ids] == [1, 1, 1]


def test_a_delivery_that_it_cannot_send_is_put_back_uncounted(stack: Stack) -> None:
    worker = stack.worker_processes[0]
    with Destination() as receiver, stack.openai() as client, ThreadPoolExecutor(1) as pool:
        endpoint = client.webhooks.create(name="mine", url=receiver.url, event_types=ALL)
        with no_more_files(worker.popen.pid):
            result = pool.submit(client.webhooks.test, endpoint.id, event_type="response.failed")
            worker.match("deliveries released|too many open files.*deliveries released")
        assert result.result(30).status_code == 200
        assert len(receiver.delivered) == 1


def test_an_api_out_of_files_answers_503_and_lives(postgres_url: str, valkey: ValkeyServer, tmp_path: Path) -> None:
    """It cannot connect to its database."""
    body = {"model": MODEL, "input": "Hello", "background": True}
    with Stack(postgres_url, valkey.url, tmp_path, workers=0) as stack, ExitStack() as open_clients:
        clients = [open_clients.enter_context(stack.http()) for _ in range(12)]
        for each in clients:
            each.get("/models")
        with no_more_files(stack.api.popen.pid, 1), ThreadPoolExecutor(12) as pool:
            answers = [*pool.map(lambda each: each.get("/responses"), clients)]
            answers += pool.map(lambda each: each.post("/responses", json=body), clients)
        assert {each.status_code for each in answers} <= {200, 503}
        assert all("retry-after" in each.headers for each in answers if each.status_code == 503)
        assert {each.post("/responses", json=body).status_code for each in clients} == {200}
        assert httpx.get(f"{stack.url}/healthz").status_code == 200
