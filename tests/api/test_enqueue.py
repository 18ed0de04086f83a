"""After the commit one Celery message is enqueued. It holds only the job's id. A lost message loses no job."""

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
from tests.api.world import MODEL, FakeWorker, Json, Server, Tenant, a_tenant, serve, settings_for
from tests.support.names import NAMES
from tests.support.server import free_port
from tests.support.valkey import ValkeyServer
from tests.support.waiting import await_until

pytestmark = pytest.mark.one_database

SECRETS = ("the secret prompt", "the secret instructions", "the secret label")


@contextmanager
def enqueuing_api(database_url: str, redis_url: str, concurrency: int = 100) -> Iterator[tuple[Server, Tenant]]:
    """An API that sees a live worker, and one of its tenants."""
    with serve(settings_for(database_url, redis_url)) as server, a_tenant(server) as tenant:
        with server.database.begin() as tx:
            register(tx, "host", 4711, concurrency, database_now(tx))
        yield server, tenant


def messages(valkey: ValkeyServer) -> list[Json]:
    """Return the messages in the broker's queue, oldest first."""
    with valkey.client() as client:
        return [json.loads(each) for each in client.lrange(NAMES.calls, 0, -1)][::-1]


def everything_in(valkey: ValkeyServer) -> bytes:
    with valkey.client() as client:
        return b"\n".join(key + b" " + client.dump(key) for key in client.keys("*"))


def enqueued(valkey: ValkeyServer) -> list[str]:
    return [each["headers"]["id"] for each in messages(valkey)]


def test_a_message_is_a_celery_message_that_carries_only_the_id(database_url: str, valkey: ValkeyServer) -> None:
    with enqueuing_api(database_url, valkey.url) as (server, tenant):
        prompt, instructions, label = SECRETS
        accepted = tenant.submit(prompt, instructions=instructions, metadata={"label": label})
        assert FakeWorker(server).job(accepted["id"]).enqueued_at is not None
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


def test_messages_are_enqueued_in_order_for_background_and_held_jobs(database_url: str, valkey: ValkeyServer) -> None:
    with enqueuing_api(database_url, valkey.url) as (server, tenant):
        first = tenant.submit()["id"]
        body = json.dumps({"model": MODEL, "input": "x"}).encode()
        head = f"POST /v1/responses HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {tenant.secret}\r\n"
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
            connection.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
            await_until(lambda: len(enqueued(valkey)) == 2, 5, "the held request enqueued no message")
        assert enqueued(valkey) == tenant.ids(order="asc")
        assert enqueued(valkey)[0] == first


def test_a_job_that_is_due_later_is_left_to_the_enqueuer(database_url: str, valkey: ValkeyServer) -> None:
    with enqueuing_api(database_url, valkey.url) as (server, tenant):
        job_id = tenant.submit(run_at=time.time() + 60)["id"]
        assert enqueued(valkey) == []
        assert FakeWorker(server).job(job_id).enqueued_at is None


def test_the_queue_holds_no_more_messages_than_its_limit(database_url: str, valkey: ValkeyServer) -> None:
    with enqueuing_api(database_url, valkey.url, concurrency=1) as (_, tenant):
        ids = [tenant.submit()["id"] for _ in range(5)]
        assert enqueued(valkey) == ids[:2]


def test_without_a_worker_no_message_is_enqueued(database_url: str, valkey: ValkeyServer) -> None:
    with serve(settings_for(database_url, valkey.url)) as server, a_tenant(server) as tenant:
        assert tenant.submit()["status"] == "queued"
        assert enqueued(valkey) == []


def test_a_retry_enqueues_a_message(database_url: str, valkey: ValkeyServer) -> None:
    with enqueuing_api(database_url, valkey.url, concurrency=1) as (server, tenant):
        job_id = tenant.submit(run_at=time.time() + 60)["id"]
        FakeWorker(server).bring_to(Status.CANCELLED, job_id)
        tenant.http.post(f"/v1/responses/{job_id}/retry")
        assert enqueued(valkey) == [job_id]


def assert_quick_and_durable(server: Server, tenant: Tenant, seconds: float) -> None:
    began = time.monotonic()
    ids = [tenant.submit()["id"] for _ in range(10)]
    assert time.monotonic() - began < seconds
    assert tenant.ids(order="asc") == ids
    assert {FakeWorker(server).job(each).enqueued_at for each in ids} == {
        None
    }  # so that the enqueuer sends the message later


def test_with_the_broker_gone_ten_submits_take_a_second_at_most(database_url: str) -> None:
    with enqueuing_api(database_url, f"redis://127.0.0.1:{free_port()}/0") as (server, tenant):
        assert_quick_and_durable(server, tenant, 1)


def test_with_the_broker_silent_only_one_submit_waits_for_it(database_url: str) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        enqueuing_api(database_url, f"redis://127.0.0.1:{silent.getsockname()[1]}/0") as (server, tenant),
    ):
        assert_quick_and_durable(server, tenant, 8)


def test_a_broker_that_dies_after_the_check_loses_no_job(database_url: str, valkey: ValkeyServer) -> None:
    with enqueuing_api(database_url, valkey.url) as (server, tenant):
        tenant.submit()
        valkey.stop()
        began = time.monotonic()
        job_id = tenant.submit()["id"]
        assert time.monotonic() - began < 4  # the connect timeout, once
        assert tenant.get(job_id)["status"] == "queued"
        valkey.start()
        await_until(lambda: tenant.submit()["id"] in enqueued(valkey), 5, "no message is enqueued any more")
        assert FakeWorker(server).job(job_id).status is Status.QUEUED


@pytest.mark.parametrize("action", ["cancel", "delete"])
def test_with_redis_gone_a_cancel_is_still_quick(database_url: str, action: str) -> None:
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


def test_messages_share_one_connection_to_the_broker(database_url: str, valkey: ValkeyServer) -> None:
    """Two connections per message would take longer than the rest of a create."""
    with enqueuing_api(database_url, valkey.url) as (_, tenant):
        tenant.submit()
        before = connections_made(valkey)
        ids = [tenant.submit()["id"] for _ in range(5)]
        assert connections_made(valkey) - before == 1  # the connection of this count
        assert enqueued(valkey)[1:] == ids


def test_the_first_message_after_a_restart_of_the_broker_arrives(database_url: str, valkey: ValkeyServer) -> None:
    with enqueuing_api(database_url, valkey.url) as (_, tenant):
        tenant.submit()
        valkey.stop()
        valkey.start()
        job_id = tenant.submit()["id"]
        assert enqueued(valkey) == [job_id]
