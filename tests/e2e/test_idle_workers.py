"""A worker that would take no work is refused at start, or named; one that takes no messages does not count as live."""

import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from jobs.store.database import Database, database_now
from jobs.store.workers import CALLS, DELIVERIES, WorkerRow, live_workers
from tests.support.names import NAMES, NAMESPACE
from tests.support.stack import ROOT, Stack
from tests.support.valkey import ClusterServer, ValkeyServer
from tests.support.waiting import await_until

pytestmark = [pytest.mark.one_database, pytest.mark.long]

HEARTBEAT_SECONDS = 5.0
NOWHERE = "redis://127.0.0.1:1/0"


@pytest.fixture
def stack(valkey: ValkeyServer, tmp_path: Path) -> Iterator[Stack]:
    environment = {"BACKBURNER_NAMESPACE": NAMESPACE, "BACKBURNER_WORKER_CONCURRENCY": "4"}
    with Stack(f"sqlite:///{tmp_path}/backburner.db", valkey.url, tmp_path, environment, workers=0) as started:
        yield started


def readiness(stack: Stack) -> dict[str, Any]:
    body: dict[str, Any] = httpx.get(f"{stack.url}/readyz").json()
    return body


def worker_rows(stack: Stack) -> list[WorkerRow]:
    database = Database(stack.database_url)
    with database.read() as tx:
        rows = live_workers(tx, database_now(tx), timedelta(seconds=10))
    database.close()
    return rows


def run(environment: dict[str, str], *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-m", *command],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def refusal(database_url: str, broker_url: str, data_dir: Path, *options: str) -> str:
    """Return the only line printed by a worker that does not start."""
    settings = {"DATABASE_URL": database_url, "REDIS_URL": broker_url, "DATA_DIR": str(data_dir)}
    environment = {f"BACKBURNER_{name}": value for name, value in {**settings, "NAMESPACE": NAMESPACE}.items()}
    ended = run(environment, "worker.celery_adapter.command", *options)
    assert (ended.returncode, len(ended.stderr.strip().splitlines())) == (1, 1), ended.stderr
    return ended.stderr


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("-X", NAMES.calls), "-Q and -X leave no consumer for backburner: "),
        (("-Q", NAMES.calls), "-Q and -X leave no consumer for backburner.deliveries: "),
        (("--autoscale=10,3",), "--autoscale is not supported"),
    ],
    ids=["excluded", "one alone", "autoscale"],
)
def test_options_that_leave_a_queue_without_a_listener_are_refused(
    sqlite_url: str, tmp_path: Path, options: tuple[str, ...], says: str
) -> None:
    assert refusal(sqlite_url, NOWHERE, tmp_path, *options).startswith(says)


def test_a_cluster_is_refused_in_one_sentence(sqlite_url: str, tmp_path: Path) -> None:
    with ClusterServer() as cluster:
        said = refusal(sqlite_url, cluster.url, tmp_path)
    assert said == "Redis Cluster cannot keep the queue: name one server, or Sentinels, in BACKBURNER_REDIS_URL.\n"


def test_a_database_without_its_migrations_is_named(tmp_path: Path) -> None:
    ended = run(
        {"BACKBURNER_DATA_DIR": str(tmp_path), "BACKBURNER_REDIS_URL": NOWHERE}, "worker.celery_adapter.command"
    )
    assert ended.returncode == 1
    assert ended.stderr.startswith("The installation's namespace cannot be read from the database (OperationalError): ")


def test_a_worker_counts_by_what_it_listens_to_and_says_when_it_last_took_something(
    stack: Stack, valkey: ValkeyServer
) -> None:
    stack.start_worker("worker.celery_adapter.command", "--concurrency", "3")
    await_until(lambda: readiness(stack)["missing"] == [], 30, stack.logs)
    (row,) = worker_rows(stack)
    assert (row.queues, row.concurrency, row.took_at) == (f"{CALLS},{DELIVERIES}", 3, None)
    assert run(stack.settings(), "worker.health").returncode == 0
    stack.await_all([stack.submit("[[sim: full delay=0]] Hello")], "completed", 20)
    await_until(
        lambda: worker_rows(stack)[0].took_at, HEARTBEAT_SECONDS, "the heartbeat does not say that it took a job"
    )
    valkey.freeze()  # the worker lives, and takes nothing
    await_until(lambda: worker_rows(stack)[0].queues == "", 30, stack.logs)
    assert readiness(stack)["missing"] == ["broker"]
    ill = run(stack.settings(), "worker.health")
    assert (ill.returncode, ill.stdout) == (1, "The worker of this host does not listen to the queue of jobs.\n")
    valkey.thaw()
    await_until(lambda: readiness(stack)["missing"] == [], 15, stack.logs)
    stack.await_all([stack.submit("[[sim: full delay=0]] Hello")], "completed", 20)


def test_a_key_of_the_queues_name_and_another_type_ends_no_worker(stack: Stack, valkey: ValkeyServer) -> None:
    """Each worker used to end at once, and again at every start."""
    worker = stack.start_worker()
    await_until(lambda: readiness(stack)["missing"] == [], 30, stack.logs)
    with valkey.client() as client:
        client.set(NAMES.calls, "not a list")
        worker.match("WRONGTYPE.*broker refuses to hand out messages")
        assert "broker" in readiness(stack)["missing"]
        job_id = stack.submit("[[sim: full delay=0]] Hello")
        client.delete(NAMES.calls)
    stack.await_all([job_id], "completed", 20)
    assert worker.popen.poll() is None
    await_until(lambda: readiness(stack)["missing"] == [], 15, stack.logs)
