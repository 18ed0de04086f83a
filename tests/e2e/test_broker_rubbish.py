"""A worker whose broker is written to by strangers: it obeys none of them, survives all, and goes on with its jobs."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery.worker.control import Panel

from jobs.dispatch import create_celery, take_names
from jobs.settings import load_settings
from tests.support.names import NAMES, NAMESPACE
from tests.support.stack import Stack
from tests.support.valkey import ValkeyServer
from tests.support.waiting import await_until
from worker.remote_control import ALLOWED, REFUSED

pytestmark = pytest.mark.one_database

CONTROL_CHANNEL = f"/0.{NAMES.control}.pidbox"
SLOTS = 2
FULL = 40
"""Messages of a kind, several times as many as the worker has places for."""


@pytest.fixture
def stack(valkey: ValkeyServer, tmp_path: Path) -> Iterator[Stack]:
    environment = {"BACKBURNER_WORKER_CONCURRENCY": str(SLOTS), "BACKBURNER_NAMESPACE": NAMESPACE}
    with Stack(f"sqlite:///{tmp_path}/backburner.db", valkey.url, tmp_path, environment) as started:
        yield started


@pytest.fixture
def celery(valkey: ValkeyServer) -> Iterator[Celery]:
    """An application of Celery's as a stranger has it who knows the broker's address."""
    app = create_celery(load_settings(redis_url=valkey.url))
    take_names(app, NAMES)
    yield app
    app.close()


def pings(app: Celery) -> int:
    return len(app.control.inspect(timeout=1).ping() or {})


def envelope(headers: Any, body: str, properties: Any = None) -> bytes:
    """A message as kombu writes it to a list or a channel."""
    address = {"exchange": NAMES.calls, "routing_key": NAMES.calls}
    plain = {"delivery_tag": "a-tag", "delivery_info": address, "delivery_mode": 2, "priority": 0}
    given = {"body_encoding": "base64", "correlation_id": "x", **plain} if properties is None else properties
    kinds = {"content-type": "application/json", "content-encoding": "utf-8"}
    return json.dumps({"body": body, **kinds, "headers": headers, "properties": given}).encode()


def encoded(value: Any) -> str:
    return base64.b64encode(json.dumps(value).encode()).decode()


NOTHING = encoded([["resp_nobody"], {}, {}])
EXECUTE = {"lang": "py", "task": "backburner.execute", "id": "x", "root_id": "x", "parent_id": None}
RUBBISH = {
    "not UTF-8": b"\xff\xfe",
    "not JSON": b"{",
    "a number": b"5",
    "null": b"null",
    "a list": b"[]",
    "an empty object": b"{}",
    "brackets without end": b"[" * 200_000,
    "a number of 5,000 digits": b"9" * 5000,
    "no headers": envelope(None, NOTHING),
    "headers as a list": envelope(["task"], NOTHING),
    "properties as text": envelope(EXECUTE, NOTHING, "properties"),
    "no delivery tag": envelope(EXECUTE, NOTHING, {"body_encoding": "base64"}),
    "a task of a strange type": envelope({**EXECUTE, "task": ["backburner.execute"]}, NOTHING),
    "an unknown task": envelope({**EXECUTE, "task": "os.system"}, NOTHING),
    "an id of a strange type": envelope({**EXECUTE, "id": {"a": []}}, NOTHING),
    "a body that is no base64": envelope(EXECUTE, "%"),
    "a body that is a number": envelope(EXECUTE, encoded(5)),
    "too many arguments": envelope(EXECUTE, encoded([[1, 2, 3], {"x": 1}, {}])),
    "an argument of a strange type": envelope(EXECUTE, encoded([[{"a": 1}], {}, {}])),
    "a NUL in an id": envelope(EXECUTE, encoded([["resp_\0"], {}, {}])),
    "an expiry that is no date": envelope({**EXECUTE, "expires": "never"}, NOTHING),
    "a start that is no date": envelope({**EXECUTE, "eta": "never"}, NOTHING),
    "a start in a thousand years": envelope({**EXECUTE, "eta": "3026-01-01T00:00:00"}, NOTHING),
    "a time limit that is none": envelope({**EXECUTE, "timelimit": 5}, NOTHING),
    "retries beyond counting": envelope({**EXECUTE, "retries": 10**400}, NOTHING),
}
COMMANDS: dict[str, dict[str, Any]] = {
    "shutdown": {},
    "pool_shrink": {"n": 1000},
    "pool_grow": {"n": 1},
    "pool_restart": {},
    "cancel_consumer": {"queue": NAMES.calls},
    "add_consumer": {"queue": "another"},
    "autoscale": {"max": 1, "min": 0},
    "rate_limit": {"task_name": "backburner.execute", "rate_limit": "1/h"},
    "time_limit": {"task_name": "backburner.execute", "hard": 1},
    "revoke": {"task_id": ["resp_1"], "terminate": True},
    "terminate": {"signal": "KILL", "task_id": ["resp_1"]},
    "revoke_by_stamped_headers": {"headers": {"a": ["b"]}, "terminate": True},
    "disable_events": {},
    "hello": {"from_node": "celery@stranger", "revoked": {"resp_1": 0}},
    "election": {"id": "1", "topic": "t", "action": {}},
    "memsample": {},
    "memdump": {},
    "objgraph": {},
    "report": {},
    "query_task": {"ids": ["resp_1"]},
    "dump_conf": {},
}


def test_remote_commands_change_nothing_while_ping_is_answered(stack: Stack, celery: Celery) -> None:
    await_until(lambda: pings(celery) == 1, 30, stack.logs)
    for command, arguments in COMMANDS.items():
        [answer] = celery.control.broadcast(command, arguments=arguments, reply=True, timeout=10, limit=1)
        assert list(answer.values()) == [REFUSED], command
    assert pings(celery) == 1
    later = stack.submit_many(4 * SLOTS, "[[sim: full delay=0]] Hello")
    stack.await_all(later, "completed", 30)
    assert stack.processes[-1].popen.poll() is None


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


@pytest.mark.parametrize("where", ["in the queue", "among the commands"])
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
