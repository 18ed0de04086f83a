"""An SDK's own retry joins the job of its lost first request. A separate equal create makes its own job."""

import asyncio
import hashlib
import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import httpx
import openai
import pytest
from openai import OpenAI
from sqlalchemy import text

from jobs.errors import ErrorKind, Failure
from jobs.store import schema
from jobs.store.database import Database
from tests.api.world import MODEL, TEXT, FakeWorker, Json, Server, Tenant, serve
from tests.support.waiting import await_until

BODY: Json = {"model": MODEL, "input": "Hello"}
AGAIN = {"x-stainless-retry-count": "1"}


@pytest.fixture
def client(server: Server, tenant: Tenant) -> Iterator[OpenAI]:
    """The SDK with a short read timeout, and more retries than its default for slow machines."""
    with OpenAI(base_url=f"{server.url}/v1", api_key=tenant.secret, timeout=1.0, max_retries=8) as client:
        yield client


def requests_for(server: Server, job_id: str) -> list[str]:
    """The request with an undelivered create of this job, if any."""
    row = schema.undelivered_creates.c
    with server.database.read() as tx:
        query = schema.undelivered_creates.select().with_only_columns(row.request_id).where(row.job_id == job_id)
        return list(tx.execute(query).scalars())


def post_raw(server: Server, tenant: Tenant, body: Json, count: int = 0) -> socket.socket:
    """A create on a connection of its own, as an SDK sends it."""
    content = json.dumps(body).encode()
    head = (
        f"POST /v1/responses HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {tenant.secret}\r\n"
        f"x-stainless-retry-count: {count}\r\ncontent-length: {len(content)}\r\n\r\n"
    )
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=10)
    connection.sendall(head.encode() + content)
    return connection


def post(tenant: Tenant, body: Json, **headers: str) -> httpx.Response:
    answer = tenant.http.post("/v1/responses", content=json.dumps(body), headers=headers)
    assert answer.status_code == 200, answer.text
    return answer


def test_a_retry_after_a_read_timeout_joins_the_job(
    server: Server, client: OpenAI, tenant: Tenant, worker: FakeWorker
) -> None:
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(client.responses.create, model=MODEL, input="Hello")
        job_id = tenant.only_id()
        [first] = await_until(lambda: requests_for(server, job_id), 5, "no undelivered create was written")
        await_until(lambda: requests_for(server, job_id) != [first], 30, "it was never sent again, or never joined")
        worker.complete(job_id)
        done = answer.result(30)
    assert (done.id, done.output_text) == (job_id, TEXT)
    assert tenant.ids() == [job_id]
    await_until(lambda: not requests_for(server, job_id), 5, "a delivered create is still there")


@contextmanager
def gateway_with_timeout(server: Server, tenant: Tenant) -> Iterator[str]:
    """A proxy that answers the first request with 504, as if it had timed out, and passes on the next."""

    def pass_on(connection: socket.socket) -> None:
        asked = connection.recv(65_536)
        while len(asked.partition(b"\r\n\r\n")[2]) < len(json.dumps(BODY, separators=(",", ":"))):
            asked += connection.recv(65_536)
        with connection, socket.create_connection(("127.0.0.1", server.port)) as upstream:
            upstream.sendall(asked.replace(b"onnection: keep-alive", b"onnection: close"))
            if not has_timed_out.is_set():
                has_timed_out.set()
                await_until(lambda: server.waiting(tenant.only_id()), 5, "it is not held")
                upstream.close()
                connection.sendall(b"HTTP/1.1 504 Gateway Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
                return
            while piece := upstream.recv(65_536):
                connection.sendall(piece)

    has_timed_out = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(2) as pool:
        working = [pool.submit(lambda: pass_on(listener.accept()[0])) for _ in range(2)]
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        for each in working:
            each.result(20)


def test_a_retry_after_a_gateways_504_joins_the_job(server: Server, tenant: Tenant, worker: FakeWorker) -> None:
    with gateway_with_timeout(server, tenant) as base_url, ThreadPoolExecutor(1) as pool:
        client = OpenAI(base_url=base_url, api_key=tenant.secret, timeout=20)
        answer = pool.submit(client.responses.create, model=MODEL, input="Hello")
        job_id = tenant.only_id()
        [first] = await_until(lambda: requests_for(server, job_id), 5, "no undelivered create was written")
        await_until(lambda: requests_for(server, job_id) != [first], 30, "it was never sent again, or never joined")
        worker.complete(job_id)
        assert answer.result(10).id == job_id
    assert tenant.ids() == [job_id]


def test_a_retry_gets_the_failure_that_was_not_delivered(
    server: Server, client: OpenAI, tenant: Tenant, worker: FakeWorker
) -> None:
    with post_raw(server, tenant, BODY):
        job_id = tenant.only_id()
        await_until(lambda: server.waiting(job_id), 5, "it is not held")
    worker.fail(job_id, Failure(ErrorKind.REJECTED, "The provider refuses.", 400))
    answer = tenant.http.post("/v1/responses", content=json.dumps(BODY), headers=AGAIN)
    assert (answer.status_code, answer.headers["x-should-retry"]) == (400, "false")
    assert tenant.ids() == [job_id]


@contextmanager
def submits_are_blocked(database: Database) -> Iterator[None]:
    with database.begin() as tx:
        if not database.is_sqlite:
            tx.execute(text("LOCK TABLE jobs IN EXCLUSIVE MODE"))
        yield


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_retry_waits_for_the_first_request_that_is_being_committed(
    server: Server, tenant: Tenant, worker: FakeWorker, elsewhere: bool
) -> None:
    """The client disconnects after the check that precedes a slow commit."""
    if server.database.is_sqlite:
        pytest.skip("on SQLite a create that waits for its commit has not started its transaction")
    with ThreadPoolExecutor(1) as pool, ExitStack() as stack:
        if elsewhere:
            other = stack.enter_context(serve(server.settings))
            there = Tenant(tenant.id, tenant.secret, stack.enter_context(other.client(tenant.secret)))
        else:
            there = tenant
        with server.database.begin() as tx:
            tx.execute(text("LOCK TABLE undelivered_creates IN EXCLUSIVE MODE"))  # the last write of a create
            first = post_raw(server, tenant, BODY)
            waits = text(
                "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'undelivered_creates'::regclass"
            )
            await_until(lambda: tx.execute(waits).scalar(), 5, "it never reached its last write")
            first.close()
            again = pool.submit(post, there, BODY, **AGAIN)
            with pytest.raises(TimeoutError):
                again.result(1.0)  # it has checked by now
        job_id = tenant.only_id()
        worker.complete(job_id)
        assert again.result(20).json()["id"] == job_id
    assert tenant.ids() == [job_id]


@pytest.mark.parametrize("background", [True, False])
def test_a_create_that_is_submitted_too_late_is_submitted_once(
    server: Server, client: OpenAI, tenant: Tenant, worker: FakeWorker, background: bool
) -> None:
    elsewhere = Database(server.settings.database)
    with ThreadPoolExecutor(1) as pool:
        with submits_are_blocked(elsewhere):
            answer = pool.submit(client.responses.create, model=MODEL, input="Hello", background=background)
            with pytest.raises(TimeoutError):
                answer.result(1.2)  # the first request has timed out by now
        job_id = tenant.only_id()
        worker.complete(job_id)
        assert answer.result(20).id == job_id
    elsewhere.close()
    assert tenant.ids() == [job_id]


def test_a_background_create_whose_answer_was_never_written_is_joined(server: Server, tenant: Tenant) -> None:
    """The process was killed between the commit and the answer."""
    body: Json = {**BODY, "background": True}
    job_id = post(tenant, body, **{"x-stainless-retry-count": "0"}).json()["id"]
    await_until(lambda: not requests_for(server, job_id), 5, "it still counts as undelivered")
    digest = hashlib.sha256(json.dumps(body).encode()).hexdigest()
    killed = {"request_id": "req_killed", "process_id": "api_killed"}
    with server.database.begin() as tx:
        when = tx.execute(schema.jobs.select().where(schema.jobs.c.id == job_id)).mappings().one()["created_at"]
        mark = {"job_id": job_id, "api_key_id": tenant.id, "body_sha256": digest, "since": when}
        tx.execute(schema.undelivered_creates.insert().values(**mark, **killed))
    assert post(tenant, body, **AGAIN).json()["id"] == job_id  # after the process counts as dead
    assert post(tenant, body, **AGAIN).json()["id"] != job_id


def test_a_client_that_still_waits_keeps_its_job(server: Server, tenant: Tenant, worker: FakeWorker) -> None:
    with post_raw(server, tenant, BODY):
        job_id = tenant.only_id()
        with post_raw(server, tenant, BODY, count=1):
            await_until(lambda: len(tenant.ids()) == 2, 10, "the retry waits for ever")
            assert len(requests_for(server, job_id)) == 1


def test_a_hundred_equal_prompts_with_some_retries_make_a_hundred_jobs(server: Server, tenant: Tenant) -> None:
    """After a 429 from a gateway, the first request of a retry has made no job."""

    async def send_all() -> list[str]:
        headers = {"authorization": f"Bearer {tenant.secret}"}
        limits = httpx.Limits(max_connections=100)
        async with httpx.AsyncClient(headers=headers, timeout=60, limits=limits, trust_env=False) as http:

            async def send(number: int) -> str:
                again = {"x-stainless-retry-count": str(int(number % 3 == 0))}
                body = json.dumps({**BODY, "background": True})
                answer = await http.post(f"{server.url}/v1/responses", content=body, headers=again)
                made: str = answer.raise_for_status().json()["id"]
                return made

            return await asyncio.gather(*(send(number) for number in range(100)))

    ids = asyncio.run(send_all())
    assert len(set(ids)) == 100
    assert len(tenant.ids(limit=100)) == 100


def test_each_lost_create_is_joined_by_one_retry(server: Server, tenant: Tenant) -> None:
    connections = [post_raw(server, tenant, BODY) for _ in range(3)]
    await_until(lambda: len(tenant.ids()) == 3, 5, "not all were submitted")
    jobs = tenant.ids()
    await_until(lambda: all(map(server.waiting, jobs)), 5, "not all are held")
    for connection in connections[:2]:
        connection.close()
    await_until(lambda: sum(map(server.waiting, jobs)) == 1, 5, "the lost ones are still held")
    retries = [post_raw(server, tenant, BODY, count=1) for _ in range(2)]
    await_until(lambda: all(map(server.waiting, jobs)), 10, "they were not joined")
    assert sorted(tenant.ids()) == sorted(jobs)
    third = post_raw(server, tenant, BODY, count=1)
    await_until(lambda: len(tenant.ids()) == 4, 10, "the third retry joined another client's job")
    for connection in (*connections, *retries, third):
        connection.close()


def test_with_an_idempotency_key_the_retry_count_is_ignored(tenant: Tenant) -> None:
    body: Json = {**BODY, "background": True}
    first = post(tenant, body, **{"idempotency-key": "a", "x-stainless-retry-count": "0"}).json()["id"]
    assert post(tenant, body, **{"idempotency-key": "a", **AGAIN}).json()["id"] == first
    assert post(tenant, body, **{"idempotency-key": "b", **AGAIN}).json()["id"] != first


def test_the_retry_of_a_refused_request_is_refused(tenant: Tenant, client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError):
        client.responses.create(model=MODEL, input="x", max_output_tokens=1)
    answer = tenant.http.post("/v1/responses", json={"model": MODEL}, headers=AGAIN)
    assert answer.status_code == 400


def test_a_server_that_stops_removes_its_process(server: Server, tenant: Tenant) -> None:
    with serve(server.settings) as stopping:
        process_id = stopping.state.undelivered.process_id

        def listed() -> bool:
            with server.database.read() as tx:
                ids = tx.execute(schema.api_processes.select()).scalars().all()
            return process_id in ids

        await_until(listed, 5, "it wrote no heartbeat")
    assert not listed()
