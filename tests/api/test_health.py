"""Routes for the operator: liveness, readiness with the missing parts, metrics."""

import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import update

from jobs.errors import ErrorKind, Failure
from jobs.store import schema
from jobs.store.database import database_now
from jobs.store.workers import CALLS, DELIVERIES, Report, heartbeat, leave, register
from tests.api.world import FakeWorker, Server, a_tenant, serve, settings_for
from tests.support.server import free_port
from tests.support.valkey import ValkeyServer
from tests.support.waiting import await_until


@pytest.fixture
def alone(database_url: str, shared_valkey: ValkeyServer) -> Iterator[Server]:
    """An API with its own database, because workers are shared by all tenants."""
    with serve(settings_for(database_url, shared_valkey.url)) as server:
        yield server


def start_worker(server: Server, concurrency: int = 10) -> str:
    with server.database.begin() as tx:
        return register(tx, "host", 4711, concurrency, database_now(tx))


def readiness(server: Server) -> tuple[int, list[str]]:
    with server.client() as client:
        answer = client.get("/readyz")
    body = answer.json()
    assert body.keys() == {"status", "missing", "reasons", "warnings", "waiting", "provider"}
    assert body["status"] == ("ok" if answer.status_code == 200 else "unavailable")
    missing: list[str] = body["missing"]
    return answer.status_code, missing


def metrics(server: Server) -> dict[str, float]:
    with server.client() as client:
        answer = client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return {
        sample.name + "".join(sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


@contextmanager
def nowhere() -> Iterator[str]:
    """Return the URL of a Redis that does not run."""
    yield f"redis://127.0.0.1:{free_port()}/0"


def test_liveness_needs_neither_database_nor_broker() -> None:
    unreachable = f"postgresql://nobody@127.0.0.1:{free_port()}/nothing"
    with nowhere() as redis_url, serve(settings_for(unreachable, redis_url)) as server, server.client() as client:
        answer = client.get("/healthz")
        assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
        assert answer.headers["x-request-id"].startswith("req_")
        assert readiness(server) == (503, ["database", "broker"])


def test_the_server_is_ready_while_a_worker_is_alive(alone: Server) -> None:
    assert readiness(alone) == (503, ["worker"])
    worker_id = start_worker(alone)
    assert readiness(alone) == (200, [])
    with alone.database.begin() as tx:
        heartbeat(tx, worker_id, database_now(tx) - timedelta(seconds=11))
    assert readiness(alone) == (503, ["worker"])
    with alone.database.begin() as tx:
        heartbeat(tx, worker_id, database_now(tx))
    assert readiness(alone) == (200, [])
    with alone.database.begin() as tx:
        leave(tx, worker_id, database_now(tx))
    assert readiness(alone) == (503, ["worker"])


def test_a_worker_that_does_not_consume_the_job_queue_does_not_count(alone: Server) -> None:
    worker_id = start_worker(alone)
    for queues, missing in (((), ["worker"]), ((DELIVERIES,), ["worker"]), ((CALLS, DELIVERIES), [])):
        with alone.database.begin() as tx:
            heartbeat(tx, worker_id, database_now(tx), report=Report(queues, 10, None))
        assert readiness(alone)[1] == missing


def test_a_job_that_no_worker_claims_is_reported_with_the_reason(alone: Server) -> None:
    """A worker that consumes the queue but claims nothing must not look healthy."""
    worker_id = start_worker(alone)
    with a_tenant(alone) as tenant:
        job_id = tenant.submit()["id"]
        with alone.database.begin() as tx:
            long_ago = database_now(tx) - timedelta(minutes=1)
            tx.execute(update(schema.jobs).where(schema.jobs.c.id == job_id).values(available_at=long_ago))
            heartbeat(tx, worker_id, database_now(tx), report=Report((CALLS, DELIVERIES), 10, timedelta(seconds=50)))
        with alone.client() as client:
            body = client.get("/readyz").json()
        assert body["missing"] == ["pick-up"]
        assert (body["waiting"]["id"], body["waiting"]["seconds"] >= 60) == (job_id, True)
        assert re.fullmatch(r"slots are free, but the workers have taken no job for 5\d s", body["waiting"]["reason"])
        with alone.database.begin() as tx:
            heartbeat(tx, worker_id, database_now(tx), report=Report((CALLS, DELIVERIES), 10, timedelta(seconds=1)))
        assert readiness(alone) == (200, [])


def test_a_database_without_its_migrations_is_named(empty_database_url: str, shared_valkey: ValkeyServer) -> None:
    with serve(settings_for(empty_database_url, shared_valkey.url)) as server:
        assert readiness(server) == (503, ["migrations"])


@pytest.mark.one_database
def test_a_broker_is_reported_as_missing_until_it_is_back(database_url: str, valkey: ValkeyServer) -> None:
    with serve(settings_for(database_url, valkey.url)) as server:
        start_worker(server)
        assert readiness(server) == (200, [])
        valkey.stop()
        assert readiness(server) == (503, ["broker"])
        valkey.start()
        await_until(lambda: readiness(server) == (200, []), 5, "the broker is still missing")


@pytest.mark.one_database
def test_readiness_checks_a_broker_that_is_separate_from_redis(database_url: str, valkey: ValkeyServer) -> None:
    with nowhere() as redis_url, serve(settings_for(database_url, redis_url, broker_url=valkey.url)) as server:
        start_worker(server)
        assert readiness(server) == (200, [])


@pytest.mark.one_database
def test_readiness_is_answered_in_time_when_the_broker_is_silent(database_url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        redis_url = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        with serve(settings_for(database_url, redis_url)) as server, server.client() as client:
            assert client.get("/readyz", timeout=8).json()["missing"] == ["worker", "broker"]


def test_metrics_are_read_from_the_rows(alone: Server) -> None:
    worker = FakeWorker(alone)
    with a_tenant(alone) as tenant:
        ids = [tenant.submit(f"a secret prompt {n}")["id"] for n in range(4)]
        worker.claim(ids[0])
        worker.complete(ids[1])
        worker.reschedule(ids[2], Failure(ErrorKind.RATE_LIMITED, "Slow down.", 429), timedelta(hours=1))
        start_worker(alone, 10)
        start_worker(alone, 20)
        found = metrics(alone)
    assert found["backburner_jobsqueued"] == 2
    assert found["backburner_jobsin_progress"] == 1
    assert found["backburner_workers"] == 2
    assert found["backburner_slots"] == 30
    assert 0 < found["backburner_oldest_due_seconds"] < 60
    assert found["backburner_queued_messages"] >= 0


def test_metrics_of_an_idle_server(alone: Server) -> None:
    found = metrics(alone)
    assert (found["backburner_jobsqueued"], found["backburner_jobsin_progress"]) == (0, 0)
    assert (found["backburner_workers"], found["backburner_slots"]) == (0, 0)
    assert found["backburner_oldest_due_seconds"] == 0


@pytest.mark.one_database
def test_metrics_show_nan_for_an_unavailable_broker(database_url: str) -> None:
    with nowhere() as redis_url, serve(settings_for(database_url, redis_url)) as server:
        messages = metrics(server)["backburner_queued_messages"]
        assert messages != messages  # NaN
