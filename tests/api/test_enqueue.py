"""After the commit the bell is rung: one Celery message with the id and nothing else. Without it nothing is lost."""

import base64
import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from jobs.celery_app import EXECUTE
from jobs.lifecycle import Status
from jobs.store.database import database_now
from jobs.store.workers import register
from tests.api.world import MODEL, Hand, Json, Server, Tenant, a_tenant, serve, settings_for
from tests.support.names import NAMES
from tests.support.server import free_port
from tests.support.valkey import ValkeyServer
from tests.support.waiting import await_until

pytestmark = pytest.mark.one_database

SECRETS = ("the secret prompt", "the secret instructions", "the secret label")


@contextmanager
def ringing(database_url: str, redis_url: str, concurrency: int = 100) -> Iterator[tuple[Server, Tenant]]:
    """An API that believes in a live worker, and one of its tenants."""
    with serve(settings_for(database_url, redis_url)) as server, a_tenant(server) as tenant:
        with server.database.begin() as tx:
            register(tx, "host", 4711, concurrency, database_now(tx))
        yield server, tenant


def messages(valkey: ValkeyServer) -> list[Json]:
    """What lies in the broker's queue, oldest first."""
    with valkey.client() as client:
        return [json.loads(each) for each in client.lrange(NAMES.calls, 0, -1)][::-1]


def everything_in(valkey: ValkeyServer) -> bytes:
    with valkey.client() as client:
        return b"\n".join(key + b" " + client.dump(key) for key in client.keys("*"))


def enqueued(valkey: ValkeyServer) -> list[str]:
    return [each["headers"]["id"] for each in messages(valkey)]


def test_a_bell_is_a_celery_message_that_carries_the_id_alone(database_url: str, valkey: ValkeyServer) -> None:
    with ringing(database_url, valkey.url) as (server, tenant):
        prompt, instructions, label = SECRETS
        accepted = tenant.submit(prompt, instructions=instructions, metadata={"label": label})
        assert Hand(server).job(accepted["id"]).enqueued_at is not None
        (message,) = messages(valkey)
        args, kwargs, embedded = json.loads(base64.b64decode(message["body"]))
        assert (args, kwargs) == ([accepted["id"]], {})
        assert set(embedded.values()) == {None}
        headers = message["headers"]
        assert (headers["task"], headers["id"], headers["ignore_result"]) == (EXECUTE, accepted["id"], True)
        assert (headers["eta"], headers["expires"], headers["retries"]) == (None, None, 0)
        assert accepted["id"] in headers["argsrepr"]
        bodies = "".join(base64.b64decode(each["body"]).decode() for each in messages(valkey))
        kept = everything_in(valkey) + bodies.encode()
        for secret in (*SECRETS, tenant.secret, tenant.id):
            assert secret.encode() not in kept


def test_bells_are_rung_in_order_for_background_and_held_alike(database_url: str, valkey: ValkeyServer) -> None:
    with ringing(database_url, valkey.url) as (server, tenant):
        first = tenant.submit()["id"]
        body = json.dumps({"model": MODEL, "input": "x"}).encode()
        head = f"POST /v1/responses HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {tenant.secret}\r\n"
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
            connection.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
            await_until(lambda: len(enqueued(valkey)) == 2, 5, "the held request enqueued no message")
        assert enqueued(valkey) == tenant.ids(order="asc")
        assert enqueued(valkey)[0] == first


def test_what_is_due_later_is_the_dispatchers_to_ring(database_url: str, valkey: ValkeyServer) -> None:
    with ringing(database_url, valkey.url) as (server, tenant):
        job_id = tenant.submit(run_at=time.time() + 60)["id"]
        assert enqueued(valkey) == []
        assert Hand(server).job(job_id).enqueued_at is None


def test_the_queue_takes_no_more_than_its_window(database_url: str, valkey: ValkeyServer) -> None:
    with ringing(database_url, valkey.url, concurrency=1) as (_, tenant):
        ids = [tenant.submit()["id"] for _ in range(5)]
        assert enqueued(valkey) == ids[:2]


def test_without_a_worker_no_bell_is_rung(database_url: str, valkey: ValkeyServer) -> None:
    with serve(settings_for(database_url, valkey.url)) as server, a_tenant(server) as tenant:
        assert tenant.submit()["status"] == "queued"
        assert enqueued(valkey) == []


def test_a_retry_rings(database_url: str, valkey: ValkeyServer) -> None:
    with ringing(database_url, valkey.url, concurrency=1) as (server, tenant):
        job_id = tenant.submit(run_at=time.time() + 60)["id"]
        Hand(server).bring_to(Status.CANCELLED, job_id)
        tenant.http.post(f"/v1/responses/{job_id}/retry")
        assert enqueued(valkey) == [job_id]


def assert_quick_and_durable(server: Server, tenant: Tenant, seconds: float) -> None:
    began = time.monotonic()
    ids = [tenant.submit()["id"] for _ in range(10)]
    assert time.monotonic() - began < seconds
    assert tenant.ids(order="asc") == ids
    assert {Hand(server).job(each).enqueued_at for each in ids} == {None}  # so the dispatcher rings once it can


def test_with_the_broker_gone_ten_submits_take_a_second_at_most(database_url: str) -> None:
    with ringing(database_url, f"redis://127.0.0.1:{free_port()}/0") as (server, tenant):
        assert_quick_and_durable(server, tenant, 1)


def test_with_the_broker_silent_only_one_submit_waits_for_it(database_url: str) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        ringing(database_url, f"redis://127.0.0.1:{silent.getsockname()[1]}/0") as (server, tenant),
    ):
        assert_quick_and_durable(server, tenant, 8)


def test_a_broker_that_dies_after_it_was_asked_costs_no_job(database_url: str, valkey: ValkeyServer) -> None:
    with ringing(database_url, valkey.url) as (server, tenant):
        tenant.submit()
        valkey.stop()
        began = time.monotonic()
        job_id = tenant.submit()["id"]
        assert time.monotonic() - began < 4  # the connect timeout, once
        assert tenant.get(job_id)["status"] == "queued"
        valkey.start()
        await_until(lambda: tenant.submit()["id"] in enqueued(valkey), 5, "no message is enqueued any more")
        assert Hand(server).job(job_id).status is Status.QUEUED


@pytest.mark.parametrize("action", ["cancel", "delete"])
def test_with_redis_gone_a_cancel_is_as_quick_as_ever(database_url: str, action: str) -> None:
    redis_url = f"redis://127.0.0.1:{free_port()}/0"
    with serve(settings_for(database_url, redis_url)) as server, a_tenant(server) as tenant:
        job_id = tenant.submit()["id"]
        began = time.monotonic()
        if action == "cancel":
            assert tenant.http.post(f"/v1/responses/{job_id}/cancel").json()["status"] == "cancelled"
        else:
            assert tenant.http.delete(f"/v1/responses/{job_id}").json()["deleted"] is True
        assert time.monotonic() - began < 1


def connections_made(valkey: ValkeyServer) -> int:
    with valkey.client() as client:
        made: int = client.info("stats")["total_connections_received"]
    return made


def test_bells_share_one_connection_to_the_broker(database_url: str, valkey: ValkeyServer) -> None:
    """Each used to make two of its own, which took a create longer than everything else that it does."""
    with ringing(database_url, valkey.url) as (_, tenant):
        tenant.submit()
        before = connections_made(valkey)
        ids = [tenant.submit()["id"] for _ in range(5)]
        assert connections_made(valkey) - before == 1  # who counts
        assert enqueued(valkey)[1:] == ids


def test_the_first_bell_after_a_restart_of_the_broker_is_heard(database_url: str, valkey: ValkeyServer) -> None:
    with ringing(database_url, valkey.url) as (_, tenant):
        tenant.submit()
        valkey.stop()
        valkey.start()
        job_id = tenant.submit()["id"]
        assert enqueued(valkey) == [job_id]
