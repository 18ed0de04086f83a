"""Concurrent creates share a transaction. Each gets its own answer."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from openai import OpenAI
from sqlalchemy import text

from jobs.store.api_keys import revoke_key
from jobs.store.database import Database, database_now
from jobs.store.idempotency import Idempotency, remember
from jobs.store.responses import get_job
from tests.api.world import MODEL, FakeWorker, Json, Server, Tenant, a_tenant, serve, settings_for
from tests.chaos.proxy import CHUNK, Passage, Proxy
from tests.support.postgres import Databases, PostgresServer
from tests.support.records import make_spec, submit_one
from tests.support.valkey import ValkeyServer
from tests.support.waiting import await_until

PROMPT = "What does the fox say?"
BODY: Json = {"model": MODEL, "input": PROMPT, "background": True}


@contextmanager
def blocked_creates(server: Server) -> Iterator[None]:
    database = Database(server.settings.database)
    try:
        with database.begin() as tx:
            if not database.is_sqlite:
                tx.execute(text("LOCK TABLE jobs IN EXCLUSIVE MODE"))
            yield
    finally:
        database.close()


def post(tenant: Tenant, number: int, **headers: str) -> httpx.Response:
    body = {**BODY, "metadata": {"number": str(number)}}
    return tenant.http.post(
        "/v1/responses", json=body, headers={name.replace("_", "-"): headers[name] for name in headers}
    )


def numbers(tenant: Tenant) -> list[int]:
    """Return the numbers of the requests, once per response that they created."""
    return sorted(int(each["metadata"]["number"]) for each in tenant.page(limit=100)["data"])


@contextmanager
def a_batch(
    server: Server, tenant: Tenant, size: int, pool: ThreadPoolExecutor
) -> Iterator[list[Future[httpx.Response]]]:
    """Send creates that wait together while create 0 waits for the database. All go on at the end."""
    with blocked_creates(server):
        answers = [pool.submit(post, tenant, 0)]
        await_until(lambda: server.is_creating, 10, "nothing is written")
        await_until(lambda: not server.creates_behind, 10, "nothing is written")
        answers += [pool.submit(post, tenant, number) for number in range(1, size)]
        await_until(lambda: server.creates_behind == size - 1, 10, "they do not wait together")
        yield answers


def test_a_create_that_cannot_be_written_does_not_fail_the_others(server: Server, tenant: Tenant) -> None:
    """Four creates share a key. All but the first break a constraint and so the shared transaction."""
    with ThreadPoolExecutor(16) as pool:
        with a_batch(server, tenant, 8, pool) as alone:
            alike = [pool.submit(post, tenant, 99, idempotency_key="one key") for _ in range(4)]
            await_until(lambda: server.creates_behind == 11, 10, "they do not wait together")
        answers = [each.result(30).raise_for_status().json() for each in alone]
        same = {each.result(30).raise_for_status().json()["id"] for each in alike}
    assert [each["metadata"] for each in answers] == [{"number": str(number)} for number in range(8)]
    assert len(same) == 1
    assert numbers(tenant) == [*range(8), 99]


def test_a_create_whose_client_has_disconnected_is_left_out(server: Server, tenant: Tenant) -> None:
    """Its SDK retries it."""
    with ThreadPoolExecutor(8) as pool:
        with a_batch(server, tenant, 4, pool) as answers:
            with suppress(httpx.ReadTimeout), server.client(tenant.secret) as impatient:
                headers = {"x-stainless-retry-count": "0"}
                impatient.post(
                    "/v1/responses", json={**BODY, "metadata": {"number": "99"}}, headers=headers, timeout=0.5
                )
            await_until(lambda: server.creates_behind == 4, 10, "it does not wait with them")
        assert [each.result(30).status_code for each in answers] == [200] * 4
    assert numbers(tenant) == [*range(4)]


def test_only_the_create_with_a_revoked_key_is_refused(server: Server, tenant: Tenant) -> None:
    if server.database.is_sqlite:
        pytest.skip("there is one writer at a time")
    with a_tenant(server) as revoked, ThreadPoolExecutor(8) as pool:
        revoked.submit()
        with a_batch(server, tenant, 4, pool) as answers:
            refused = pool.submit(post, revoked, 99)
            await_until(lambda: server.creates_behind == 4, 10, "it does not wait with them")
            with server.database.begin() as tx:
                revoke_key(tx, revoked.id, datetime.now(UTC))
        assert [each.result(30).status_code for each in answers] == [200] * 4
        assert refused.result(30).status_code == 401
    assert numbers(tenant) == [*range(4)]


def test_a_create_that_waited_while_the_clock_was_set_is_submitted_at_the_new_time(
    server: Server, tenant: Tenant
) -> None:
    """The check used a time one hour ago. Counted from then, the deadline would have passed."""
    if not server.database.is_sqlite:
        pytest.skip("PostgreSQL has a clock of its own")
    other = Database(server.settings.database)
    with ThreadPoolExecutor(1) as pool:
        with other.begin() as tx:
            answer = pool.submit(post, tenant, 0)
            await_until(lambda: server.is_creating, 10, "nothing is written")
            assert other.set_time(tx, timedelta(hours=1))
        job_id = answer.result(30).raise_for_status().json()["id"]
    with other.begin() as tx:
        job, now = get_job(tx, job_id), database_now(tx)
        assert other.set_time(tx, -timedelta(hours=1))
    other.close()
    assert now - timedelta(seconds=30) < job.created_at <= now
    assert job.deadline_at - job.created_at == timedelta(seconds=server.settings.job_deadline_seconds)


def assert_nothing_submitted(answer: httpx.Response) -> None:
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "service_unavailable")
    assert "Nothing was submitted" in answer.json()["error"]["message"]
    assert "x-should-retry" not in answer.headers


def id_to_look_for(answer: httpx.Response) -> str:
    """Assert that the commit's outcome is unknown and that SDKs do not retry. Return the id in the message."""
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "acceptance_unknown")
    assert answer.headers["x-should-retry"] == "false"
    job_id = answer.headers["openai-response-id"]
    assert job_id in answer.json()["error"]["message"]
    return job_id


def test_every_create_of_a_batch_gets_503_when_the_database_goes_away(shared_valkey: ValkeyServer) -> None:
    with PostgresServer() as postgres:
        databases = Databases(postgres.url)
        with serve(settings_for(databases.migrated(), shared_valkey.url)) as server, a_tenant(server) as tenant:
            with ThreadPoolExecutor(16) as pool:
                with suppress(Exception), a_batch(server, tenant, 12, pool) as answers:
                    postgres.kill()
                answered = [each.result(30) for each in answers]
                for each in answered:
                    assert_nothing_submitted(each)
                postgres.start()
                assert await_until(lambda: post(tenant, 99).is_success, 20, "creates still fail")
            assert numbers(tenant) == [99]


class LosesCommits(Proxy):
    """A proxy to the database. While `losing`, it breaks the connection after a commit, before the confirmation."""

    losing = False

    async def _send(self, near: asyncio.StreamReader, far: asyncio.StreamWriter, passage: Passage) -> None:
        creates = False
        while chunk := await near.read(CHUNK):
            creates = creates or PROMPT.encode() in chunk
            if b"COMMIT" in chunk:
                passage.head = b"lost" if creates and self.losing else b""
                creates = False
            far.write(chunk)
            await far.drain()
        await self._finish(far, passage)

    async def _bring(self, far: asyncio.StreamReader, near: asyncio.StreamWriter, passage: Passage) -> None:
        while chunk := await far.read(CHUNK):
            if passage.head == b"lost":
                near.transport.abort()
                return
            near.write(chunk)
            await near.drain()
        await self._finish(near, passage)


def test_a_lost_commit_confirmation_reports_no_success_and_writes_nothing_twice(
    postgres_url: str, shared_valkey: ValkeyServer
) -> None:
    way, through = LosesCommits.before(postgres_url)
    with way, serve(settings_for(through, shared_valkey.url)) as server, a_tenant(server) as tenant:
        post(tenant, 99).raise_for_status()
        with ThreadPoolExecutor(16) as pool:
            with a_batch(server, tenant, 12, pool) as answers:
                way.losing = True
            ids = [id_to_look_for(each.result(30)) for each in answers]
        way.losing = False
        assert numbers(tenant) == [*range(12), 99]
        assert [tenant.get(each)["metadata"]["number"] for each in ids] == [str(number) for number in range(12)]


def test_an_sdks_own_retry_joins_a_job_committed_without_confirmation(
    postgres_url: str, shared_valkey: ValkeyServer
) -> None:
    way, through = LosesCommits.before(postgres_url)
    with way, serve(settings_for(through, shared_valkey.url)) as server, a_tenant(server) as tenant:
        way.losing = True
        unknown = post(tenant, 1, x_stainless_retry_count="0")
        assert unknown.json()["error"]["code"] == "acceptance_unknown"
        assert "x-should-retry" not in unknown.headers
        way.losing = False
        joined = post(tenant, 1, x_stainless_retry_count="1").raise_for_status()
        assert joined.json()["id"] == unknown.headers["openai-response-id"]
        way.losing = True
        unknown = post(tenant, 3, idempotency_key="a key")
        assert "x-should-retry" not in unknown.headers
        way.losing = False
        found = post(tenant, 3, idempotency_key="a key").raise_for_status()
        assert found.json()["id"] == unknown.headers["openai-response-id"]
        way.losing = True
        again = post(tenant, 2, x_stainless_retry_count="0").headers["openai-response-id"]
        way.losing = False
        way.refuse()
        # reads before the first write: the idempotency key's earlier create, and an API key that is not cached
        assert_nothing_submitted(post(tenant, 4, idempotency_key="another key"))
        with server.client("bb_of-nobody-that-is-known") as stranger:
            assert_nothing_submitted(stranger.post("/v1/responses", json=BODY))
        # the first retry finds the database unavailable, and its SDK must retry again
        assert_nothing_submitted(post(tenant, 2, x_stainless_retry_count="1"))
        way.flow()
        assert post(tenant, 2, x_stainless_retry_count="2").raise_for_status().json()["id"] == again
        way.losing = True
        with (
            OpenAI(base_url=f"{server.url}/v1", api_key=tenant.secret, max_retries=3) as sdk,
            ThreadPoolExecutor(1) as one,
        ):
            answer = one.submit(sdk.responses.create, model=MODEL, input=PROMPT, background=True)
            await_until(lambda: len(tenant.ids()) == 4, 10, "nothing was committed")
            way.losing = False
            assert answer.result(30).id in tenant.ids()
        assert len(tenant.ids()) == 4


def test_an_ended_response_is_rendered_once_and_gone_when_deleted_elsewhere(
    server: Server, tenant: Tenant, worker: FakeWorker
) -> None:
    job_id = tenant.submit()["id"]
    worker.complete(job_id)
    first, again = (tenant.http.get(f"/v1/responses/{job_id}") for _ in range(2))
    assert (first.content, first.headers["etag"]) == (again.content, again.headers["etag"])
    with serve(server.settings) as other, other.client(tenant.secret) as http:
        assert http.delete(f"/v1/responses/{job_id}").status_code == 200
    assert tenant.http.get(f"/v1/responses/{job_id}").status_code == 404


def test_another_keys_cached_response_is_not_found(server: Server, tenant: Tenant, worker: FakeWorker) -> None:
    job_id = tenant.submit()["id"]
    worker.complete(job_id)
    tenant.get(job_id)
    with a_tenant(server) as stranger:
        assert stranger.http.get(f"/v1/responses/{job_id}").status_code == 404


def test_a_large_create_neither_waits_for_others_nor_delays_them(server: Server, tenant: Tenant) -> None:
    if server.database.is_sqlite:
        pytest.skip("there is one writer at a time")
    with ThreadPoolExecutor(1) as pool:
        with server.database.begin() as tx:
            job = submit_one(tx, make_spec(tenant.id), datetime.now(UTC))
            remember(tx, [(Idempotency.of(tenant.id, "held", b""), job)])
            stuck = pool.submit(post, tenant, 0, idempotency_key="held")
            await_until(lambda: server.is_creating, 10, "nothing is written")
            assert tenant.submit("x" * 100_000)["status"] == "queued"
            assert not stuck.done()
        assert stuck.result(10).status_code == 422
