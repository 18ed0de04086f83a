"""A worker stops when it is told to: at once if it holds nothing, whatever the broker does."""

import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from tests.support.stack import Process, Stack
from tests.support.valkey import ValkeyServer
from tests.support.waiting import await_until

pytestmark = pytest.mark.one_database

LEAVE_SECONDS = 8
"""5 s, and some more for a busy machine; it used to be for ever."""


@pytest.fixture
def stack(valkey: ValkeyServer, tmp_path: Path) -> Iterator[Stack]:
    environment = {"BACKBURNER_SHUTDOWN_GRACE_SECONDS": "60"}
    with Stack(f"sqlite:///{tmp_path}/backburner.db", valkey.url, tmp_path, environment, workers=0) as started:
        yield started


def start(stack: Stack, *options: str) -> Process:
    worker = stack.start_worker("worker.celery_adapter.command", *options)
    await_until(lambda: httpx.get(f"{stack.url}/readyz").status_code == 200, 30, stack.logs)
    return worker


def test_with_redis_silent_and_nothing_in_flight_it_leaves_within_seconds(stack: Stack, valkey: ValkeyServer) -> None:
    worker = start(stack, "-E")
    stack.await_all([stack.submit("[[sim: full delay=0]] Hello")], "completed", 20)
    valkey.freeze()
    worker.match("away|not answer|Cannot connect|lost")  # it has noticed, and tries to reach it again
    worker.signal(signal.SIGTERM)
    assert worker.popen.wait(LEAVE_SECONDS) == 0


@pytest.mark.long
def test_with_the_database_locked_and_nothing_in_flight_it_leaves_as_well(stack: Stack) -> None:
    worker = start(stack)
    with closing(sqlite3.connect(stack.database_url.removeprefix("sqlite:///"), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        worker.signal(signal.SIGTERM)
        assert worker.popen.wait(LEAVE_SECONDS) == 0


@pytest.mark.long
def test_a_start_waits_for_a_locked_database_and_may_be_ended_meanwhile(stack: Stack) -> None:
    """It used to end with a traceback after four seconds."""
    with closing(sqlite3.connect(stack.database_url.removeprefix("sqlite:///"), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        stopped, kept = (
            stack.start_worker("worker.celery_adapter.command", "--hostname", name) for name in ("a@%h", "b@%h")
        )
        for each in (stopped, kept):
            each.match("start waits for the database")
        stopped.signal(signal.SIGTERM)
        assert stopped.popen.wait(LEAVE_SECONDS) == 0
    await_until(lambda: httpx.get(f"{stack.url}/readyz").status_code == 200, 30, stack.logs)
    assert kept.popen.poll() is None


@pytest.mark.long
def test_with_a_call_in_flight_it_leaves_when_that_has_ended_and_is_recorded(
    stack: Stack, valkey: ValkeyServer
) -> None:
    worker = start(stack)
    job_id = stack.submit("[[sim: full delay=6]] Hello")
    await_until(lambda: stack.calls(job_id), 20, stack.logs)
    valkey.freeze()
    worker.signal(signal.SIGTERM)
    began = time.monotonic()
    assert worker.popen.wait(40) == 0
    assert time.monotonic() - began > 3
    assert stack.get(job_id)["status"] == "completed"
    assert len(stack.calls(job_id)) == 1
