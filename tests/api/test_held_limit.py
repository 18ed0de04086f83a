"""Open answers are limited per key. Requests over the limit get 429 with `Retry-After`."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import httpx
import pytest
from openai import OpenAI, RateLimitError

from tests.api.connections import RawConnection, head
from tests.api.world import MODEL, FakeWorker, Server, Tenant, a_tenant, serve, settings_for
from tests.support.waiting import await_until

MOST = 3
HELD = {"model": MODEL, "input": "Hello"}
WAYS = ["held create", "stream of a create", "stream of a background create", "wait", "stream"]


@pytest.fixture(scope="module")
def throttle(server: Server) -> Iterator[Server]:
    """A server that allows three open answers per key."""
    with serve(settings_for(server.settings.database, server.settings.redis, max_held_per_key=MOST)) as throttle:
        yield throttle


def request(tenant: Tenant, way: str, job_id: str) -> httpx.Request:
    if way in {"wait", "stream"}:
        query = {"wait": 60} if way == "wait" else {"stream": True}
        return tenant.http.build_request("GET", f"/v1/responses/{job_id}", params=query)
    fields = {"stream": way != "held create", "background": "background" in way}
    return tenant.http.build_request("POST", "/v1/responses", json=HELD | fields)


@contextmanager
def holding(server: Server, tenant: Tenant, ways: list[str], job_id: str) -> Iterator[list[Future[httpx.Response]]]:
    """Send requests and wait until all of them are open."""
    with ThreadPoolExecutor(len(ways)) as pool:
        before = server.state.holds.held(tenant.id)
        jobs = len(tenant.ids(limit=100)) + sum("create" in way for way in ways)
        answering = [pool.submit(tenant.http.send, request(tenant, way, job_id)) for way in ways]
        try:
            await_until(lambda: server.state.holds.held(tenant.id) == before + len(ways), 10, "not all are held")
            await_until(lambda: len(tenant.ids(limit=100)) == jobs, 10, "not all are submitted")
            yield answering
        finally:
            for each in tenant.ids(limit=100):
                tenant.http.post(f"/v1/responses/{each}/cancel")


def assert_rate_limited(answer: httpx.Response) -> None:
    assert answer.status_code == 429, answer.text
    error = answer.json()["error"]
    assert (error["type"], error["code"], error["param"]) == ("rate_limit_error", "rate_limit_exceeded", None)
    assert answer.headers["retry-after"] == "5"
    assert "x-should-retry" not in answer.headers  # nothing was billed, so an SDK may retry


@pytest.mark.parametrize("way", WAYS)
def test_a_request_over_the_limit_gets_429_and_nothing_is_billed(throttle: Server, way: str) -> None:
    with a_tenant(throttle) as tenant, a_tenant(throttle) as other:
        job_id = tenant.submit()["id"]
        with holding(throttle, tenant, ["held create", "wait", "stream"], job_id):
            jobs = tenant.ids()
            assert len(jobs) == 2
            assert_rate_limited(tenant.http.send(request(tenant, way, job_id)))
            assert tenant.ids() == jobs
            tenant.submit()
            assert tenant.get(job_id)["status"] == "queued"
            with holding(throttle, other, ["held create"] * MOST, job_id):
                assert throttle.state.holds.held(other.id) == MOST
        await_until(lambda: throttle.state.holds.held(tenant.id) == 0, 5, "slots are still taken")
        with holding(throttle, tenant, [way], tenant.submit()["id"]):
            assert throttle.state.holds.held(tenant.id) == 1


def test_the_sdk_raises_its_rate_limit_error(throttle: Server) -> None:
    with a_tenant(throttle) as tenant:
        job_id = tenant.submit()["id"]
        client = OpenAI(base_url=f"{throttle.url}/v1", api_key=tenant.secret, max_retries=0)
        with client, holding(throttle, tenant, ["wait"] * MOST, job_id):
            with pytest.raises(RateLimitError) as refused:
                client.responses.create(model=MODEL, input="Hello")
            assert refused.value.code == "rate_limit_exceeded"
            assert tenant.ids() == [job_id]


def test_an_answer_that_ends_frees_its_slot(throttle: Server) -> None:
    with a_tenant(throttle) as tenant:
        first, second = tenant.submit()["id"], tenant.submit()["id"]
        with (
            holding(throttle, tenant, ["wait", "stream"], first) as ending,
            holding(throttle, tenant, ["wait"], second),
        ):
            FakeWorker(throttle).complete(first)
            assert [each.result(10).status_code for each in ending] == [200, 200]
            await_until(lambda: throttle.state.holds.held(tenant.id) == 1, 5, "slots are still taken")


@pytest.mark.parametrize("way", WAYS)
def test_disconnecting_frees_the_slot(throttle: Server, way: str) -> None:
    with a_tenant(throttle) as tenant:
        wanted = request(tenant, way, tenant.submit()["id"])
        with ExitStack() as stack:
            for _ in range(MOST):
                connection = stack.enter_context(RawConnection(throttle))
                fields = {"content_length": len(wanted.content)} if wanted.method == "POST" else {}
                connection.send(
                    head(wanted.method, wanted.url.raw_path.decode(), tenant.secret, **fields), wanted.content
                )
            await_until(lambda: throttle.state.holds.held(tenant.id) == MOST, 5, "not all are held")
        await_until(lambda: throttle.state.holds.held(tenant.id) == 0, 5, "slots are still taken")


def test_a_refused_request_takes_no_slot(throttle: Server) -> None:
    with a_tenant(throttle) as tenant:
        for body in (HELD | {"model": "none"}, HELD | {"previous_response_id": "resp_none"}, HELD | {"priority": 99}):
            for _ in range(MOST + 1):
                assert tenant.http.post("/v1/responses", json=body).status_code in {400, 404}
        for query in ("stream=true", "wait=60"):
            for _ in range(MOST + 1):
                assert tenant.http.get(f"/v1/responses/resp_none?{query}").status_code == 404
        assert throttle.state.holds.held(tenant.id) == 0


def test_a_repeated_idempotency_key_counts_against_the_limit(throttle: Server) -> None:
    with a_tenant(throttle) as tenant, ThreadPoolExecutor(MOST) as pool:
        headers = {"idempotency-key": "one"}
        for each in range(MOST):
            pool.submit(tenant.http.post, "/v1/responses", json=HELD, headers=headers)
            await_until(lambda: throttle.state.holds.held(tenant.id) > each, 5, "it is not held")  # noqa: B023
        assert_rate_limited(tenant.http.post("/v1/responses", json=HELD, headers=headers))
        tenant.http.post(f"/v1/responses/{tenant.only_id()}/cancel")


def test_the_retry_of_a_lost_create_joins_its_job_even_at_the_limit(throttle: Server) -> None:
    with a_tenant(throttle) as tenant:
        other = tenant.submit("other")["id"]
        body = b'{"model": "openai/o3-pro", "input": "mine"}'
        with RawConnection(throttle) as connection:
            fields = {"x_stainless_retry_count": 0, "content_length": len(body)}
            connection.send(head("POST", "/v1/responses", tenant.secret, **fields), body)
            await_until(lambda: len(tenant.ids()) == 2, 5, "it is not submitted")
        (mine,) = set(tenant.ids()) - {other}
        await_until(lambda: throttle.state.holds.held(tenant.id) == 0, 5, "its slot is still taken")
        with holding(throttle, tenant, ["wait"] * MOST, other), ThreadPoolExecutor(1) as pool:
            headers = {"x-stainless-retry-count": "1"}
            again = pool.submit(tenant.http.post, "/v1/responses", content=body, headers=headers)
            await_until(lambda: throttle.state.holds.held(tenant.id) == MOST + 1, 10, "it has not joined")
            FakeWorker(throttle).complete(mine)
            assert again.result(10).json()["id"] == mine
            assert set(tenant.ids()) == {mine, other}
