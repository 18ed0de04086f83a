"""Strangers write to the broker: a worker obeys none of them, survives, and goes on with its jobs."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery.worker.control import Panel

from jobs.celery_app import configure_queues, create_celery
from jobs.settings import load_settings
from tests.support.names import NAMES, NAMESPACE
from tests.support.rubbish import COMMANDS, CONTROL_CHANNEL, RUBBISH
from tests.support.stack import Stack
from tests.support.valkey import ValkeyServer
from tests.support.waiting import await_until
from worker.celery_adapter.remote_control import ALLOWED, REFUSED

pytestmark = pytest.mark.one_database

SLOTS = 2
FULL = 40
"""Messages of one kind, several times as many as the worker has slots."""


@pytest.fixture
def stack(valkey: ValkeyServer, tmp_path: Path) -> Iterator[Stack]:
    environment = {"BACKBURNER_WORKER_CONCURRENCY": str(SLOTS), "BACKBURNER_NAMESPACE": NAMESPACE}
    with Stack(f"sqlite:///{tmp_path}/backburner.db", valkey.url, tmp_path, environment) as started:
        yield started


@pytest.fixture
def celery(valkey: ValkeyServer) -> Iterator[Celery]:
    """A Celery application of a stranger who knows the broker's address."""
    app = create_celery(load_settings(redis_url=valkey.url))
    configure_queues(app, NAMES)
    yield app
    app.close()


def pings(app: Celery) -> int:
    return len(app.control.inspect(timeout=1).ping() or {})


def test_remote_commands_change_nothing_while_ping_is_answered(stack: Stack, celery: Celery) -> None:
    await_until(lambda: pings(celery) == 1, 30, stack.logs)
    for command, arguments in COMMANDS.items():
        [answer] = celery.control.broadcast(command, arguments=arguments, reply=True, timeout=10, limit=1)
        assert list(answer.values()) == [REFUSED], command
    assert pings(celery) == 1
    later = stack.submit_many(4 * SLOTS, "[[sim: full delay=0]] Hello")
    stack.await_all(later, "completed", 30)
    assert stack.processes[-1].popen.poll() is None


@pytest.mark.long
def test_what_flower_reads_is_answered(stack: Stack, celery: Celery) -> None:
    await_until(lambda: pings(celery) == 1, 30, stack.logs)
    inspect = celery.control.inspect(timeout=10, limit=1)
    for read in ("active_queues", "conf", "registered", "reserved", "revoked", "scheduled", "stats"):
        answers: dict[str, Any] = getattr(inspect, read)()
        assert len(answers) == 1
        assert not any("error" in each for each in answers.values()), read
    assert celery.control.enable_events(reply=True, timeout=10, limit=1)


def test_what_is_allowed_only_reads_or_asks_for_events() -> None:
    assert Panel.data.keys() >= ALLOWED
    assert {meta for meta in ALLOWED if Panel.meta[meta].type == "control"} == {"enable_events", "heartbeat"}


@pytest.mark.parametrize("where", ["in the queue", pytest.param("among the commands", marks=pytest.mark.long)])
def test_rubbish_ends_no_worker_and_keeps_no_job_waiting(
    stack: Stack, celery: Celery, valkey: ValkeyServer, where: str
) -> None:
    worker = stack.processes[-1]
    await_until(lambda: pings(celery) == 1, 30, stack.logs)
    with valkey.client() as client:
        for rubbish in RUBBISH.values():
            if where == "in the queue":
                client.lpush(NAMES.calls, *[rubbish] * FULL)
            else:
                client.publish(CONTROL_CHANNEL, rubbish)
        await_until(lambda: client.llen(NAMES.calls) == 0, 60, stack.logs)
    assert worker.popen.poll() is None, worker.output
    await_until(lambda: pings(celery) == 1, 10, stack.logs)
    jobs = stack.submit_many(4 * SLOTS, "[[sim: full delay=0]] Hello")
    stack.await_all(jobs, "completed", 30)
