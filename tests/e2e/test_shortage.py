"""A worker that runs out of files: no job fails for it, no attempt is used, and it says what it is short of."""

import resource
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.support.stack import Stack
from tests.support.valkey import ValkeyServer
from tests.support.waiting import await_until

pytestmark = pytest.mark.one_database

JOBS = 24
ROOM = 12
"""Files that the worker may open beyond those that it has open when its limit falls."""


@pytest.fixture
def stack(valkey: ValkeyServer, tmp_path: Path) -> Iterator[Stack]:
    environment = {"BACKBURNER_WORKER_CONCURRENCY": "200"}
    with Stack(f"sqlite:///{tmp_path}/backburner.db", valkey.url, tmp_path, environment) as started:
        yield started


def warnings(stack: Stack) -> str:
    return " ".join(httpx.get(f"{stack.url}/readyz").json()["warnings"])


def test_a_worker_out_of_files_hands_back_what_it_cannot_send(stack: Stack) -> None:
    worker = psutil.Process(stack.worker_processes[0].popen.pid)
    stack.await_all([stack.submit("[[sim: full delay=0]] Hello")], "completed", 20)
    worker.rlimit(resource.RLIMIT_NOFILE, (worker.num_fds() + ROOM,) * 2)
    job_ids = stack.submit_many(JOBS, "[[sim: full delay=2]] Hello", max_attempts=1)
    await_until(lambda: "too many open files" in warnings(stack), 20, stack.logs)
    stack.await_all(job_ids, "completed", 60)
    assert len(stack.calls()) == JOBS + 1
    outcomes = {each["outcome"] for job_id in job_ids for each in stack.attempts(job_id)}
    assert outcomes == {"completed", "released"}
