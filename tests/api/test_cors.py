"""Pages of other origins have no access unless the operator names them. Those can do all that the SDK does."""

import itertools
from collections.abc import Iterator

import httpx
import pytest

from tests.api.world import MODEL, FakeWorker, Json, Server, Tenant, a_tenant, assert_error, serve, settings_for

pytestmark = pytest.mark.one_database

PAGE = "https://app.example.com"
OTHER = "http://localhost:5173"
BODY: Json = {"model": MODEL, "input": "Hello", "background": True}
SDK_HEADERS = (
    "authorization,content-type,x-stainless-arch,x-stainless-lang,x-stainless-os,x-stainless-package-version,"
    "x-stainless-retry-count,x-stainless-runtime,x-stainless-runtime-version,x-stainless-timeout"
)
"""Headers of the preflight for a create by the Node SDK with `dangerouslyAllowBrowser`."""
EXPOSED = {"x-request-id", "openai-response-id", "retry-after", "openai-poll-after-ms", "etag", "x-should-retry"}


@pytest.fixture(scope="module")
def open_server(server: Server) -> Iterator[Server]:
    origins = f"{PAGE}, {OTHER}"
    settings = settings_for(server.settings.database, server.settings.redis, cors_origins=origins, max_body_bytes=2048)
    with serve(settings) as opened:
        yield opened


@pytest.fixture
def page(open_server: Server) -> Iterator[Tenant]:
    """A tenant whose requests carry an allowed page's origin."""
    with a_tenant(open_server) as tenant:
        tenant.http.headers["origin"] = PAGE
        yield tenant


def preflight(server: Server, origin: str, path: str, method: str) -> httpx.Response:
    """Send a browser's preflight request, which carries no key."""
    asked = {"origin": origin, "access-control-request-method": method, "access-control-request-headers": SDK_HEADERS}
    with server.client() as http:
        return http.options(path, headers=asked)


def assert_readable(answer: httpx.Response, origin: str = PAGE) -> None:
    """Assert that the page may read the answer and our headers."""
    assert answer.headers.get_list("access-control-allow-origin") == [origin]
    assert set(answer.headers["access-control-expose-headers"].split(", ")) == EXPOSED
    assert "access-control-allow-credentials" not in answer.headers


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/responses/", "/v1/responses/resp_1", "/v1/models", "/healthz"])
@pytest.mark.parametrize("origin", [PAGE, OTHER])
def test_a_page_may_send_what_the_sdk_sends(open_server: Server, origin: str, path: str) -> None:
    for method in ("GET", "POST", "DELETE"):
        answer = preflight(open_server, origin, path, method)
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == origin
        assert method in answer.headers["access-control-allow-methods"].split(", ")
        assert answer.headers["access-control-allow-headers"] == SDK_HEADERS
        assert "access-control-allow-credentials" not in answer.headers
        assert "Origin" in answer.headers["vary"]
        assert answer.headers["x-request-id"].startswith("req_")


def test_a_page_may_call_a_server_in_a_private_network(page: Tenant) -> None:
    asked = {"origin": PAGE, "access-control-request-method": "GET", "access-control-request-private-network": "true"}
    answer = page.http.options("/v1/responses", headers=asked)
    assert (answer.status_code, answer.headers["access-control-allow-private-network"]) == (200, "true")


@pytest.mark.parametrize(
    ("origin", "method"),
    [("https://evil.example", "POST"), ("null", "POST"), (f"{PAGE}.evil.example", "GET"), (PAGE, "PATCH")],
)
def test_another_origin_or_method_is_refused_in_openais_shape(open_server: Server, origin: str, method: str) -> None:
    answer = preflight(open_server, origin, "/v1/responses", method)
    assert "Disallowed CORS" in assert_error(answer, 400)
    assert answer.headers.get("access-control-allow-origin") == (PAGE if origin == PAGE else None)


def test_a_page_reads_every_answer(page: Tenant, open_server: Server) -> None:
    created = page.http.post("/v1/responses", json=BODY)
    assert created.headers["openai-response-id"] == created.json()["id"]
    path = f"/v1/responses/{created.json()['id']}"
    FakeWorker(open_server).complete(created.json()["id"])
    shown = page.http.get(path)
    streamed = page.http.get(path, params={"stream": True})
    assert "response.completed" in streamed.text
    kept = page.http.get(path, headers={"if-none-match": shown.headers["etag"]})
    assert kept.status_code == 304
    listed = page.http.get("/v1/responses")
    deleted = page.http.delete(path)
    for answer in (created, shown, streamed, kept, listed, deleted):
        assert answer.is_success or answer is kept
        assert_readable(answer)
        assert "Origin" in answer.headers["vary"]


def test_a_page_reads_every_error(page: Tenant, open_server: Server) -> None:
    refused = page.http.post("/v1/responses", json={**BODY, "input": 3})
    too_large = page.http.post("/v1/responses", json={**BODY, "input": "x" * 3000})
    unpacked = page.http.post("/v1/responses", content=b"x", headers={"content-encoding": "br"})
    without_key = httpx.post(f"{open_server.url}/v1/responses", json=BODY, headers={"origin": PAGE}, trust_env=False)
    missing, nowhere = page.http.get("/v1/responses/resp_none"), page.http.get("/v1/nowhere")
    wrong_method = page.http.put("/v1/responses")
    answers = [refused, too_large, unpacked, without_key, missing, nowhere, wrong_method]
    assert [each.status_code for each in answers] == [400, 413, 415, 401, 404, 404, 405]
    for answer in answers:
        assert_readable(answer)
        assert answer.headers["x-request-id"].startswith("req_")


def test_a_page_reads_an_internal_error(page: Tenant, open_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    job_id = page.submit()["id"]
    state = open_server.state

    async def broken(_pair: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(state.summaries, "do", broken)
    answer = page.http.get(f"/v1/responses/{job_id}")
    assert answer.status_code == 500
    assert_readable(answer)


def test_another_origin_gets_an_answer_that_it_may_not_read(page: Tenant) -> None:
    answer = page.http.get("/v1/models", headers={"origin": "https://evil.example"})
    assert answer.status_code == 200
    assert "access-control-allow-origin" not in answer.headers


def test_the_operator_may_allow_every_origin(server: Server) -> None:
    settings = settings_for(server.settings.database, server.settings.redis, cors_origins="*")
    with serve(settings) as opened, a_tenant(opened) as tenant:
        for origin, path in itertools.product((PAGE, "null", "http://anything:1"), ("/v1/responses", "/v1/models")):
            assert preflight(opened, origin, path, "POST").headers["access-control-allow-origin"] == "*"
            assert_readable(tenant.http.get(path, headers={"origin": origin}), "*")


def test_no_origin_is_allowed_by_default(server: Server, tenant: Tenant) -> None:
    assert_error(preflight(server, PAGE, "/v1/responses", "POST"), 405)
    answers = [tenant.http.get("/v1/models", headers={"origin": PAGE}), tenant.http.get("/v1/nowhere")]
    for answer in answers:
        assert not [name for name in answer.headers if name.startswith("access-control-")]
