"""Every error has OpenAI's shape and a request id, whether the client or the server caused it."""

from collections.abc import Iterator

import httpx
import pytest
from sqlalchemy import text
from structlog.testing import capture_logs

import migrations
from api.errors import CALLER_ERRORS
from jobs.errors import CallerError
from tests.api.world import MODEL, FakeWorker, Server, Tenant, a_tenant, assert_error, serve, settings_for
from tests.support.postgres import PostgresServer
from tests.support.server import free_port
from tests.support.valkey import ValkeyServer

BODY = {"model": MODEL, "input": "a secret prompt", "background": True}
DATABASE_ROUTES = [
    ("POST", "/v1/responses"),
    ("GET", "/v1/responses"),
    ("GET", "/v1/responses/resp_1"),
    ("GET", "/v1/responses/resp_1?wait=5"),
    ("GET", "/v1/responses/resp_1/attempts"),
    ("POST", "/v1/responses/resp_1/cancel"),
    ("POST", "/v1/responses/resp_1/retry"),
    ("DELETE", "/v1/responses/resp_1"),
    ("GET", "/v1/usage"),
    ("GET", "/v1/models"),
    ("GET", "/metrics"),
]


def leaves(kind: type[CallerError]) -> Iterator[type[CallerError]]:
    yield from (leaf for child in kind.__subclasses__() for leaf in (child, *leaves(child)))


def test_every_client_error_has_a_status() -> None:
    assert set(CALLER_ERRORS) == set(leaves(CallerError))


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/v1/nothing", 404),
        ("GET", "/v1", 404),
        ("GET", "/", 404),
        ("GET", "/v1/responses/a/b/c", 404),
        ("GET", "/v1/responses/a/output_items", 404),
        ("POST", "/v1/responses/a/unknown", 404),
        ("PUT", "/v1/responses", 405),
        ("PATCH", "/v1/responses/a", 405),
        ("GET", "/v1/responses/a/cancel", 405),
        ("POST", "/v1/models", 405),
        ("DELETE", "/healthz", 405),
        ("OPTIONS", "/v1/responses", 405),
    ],
)
def test_an_unknown_path_or_method_is_named(tenant: Tenant, method: str, path: str, status: int) -> None:
    answer = tenant.http.request(method, path)
    message = assert_error(answer, status)
    assert f"{method} {path}" in message
    if status == 405:
        assert answer.headers["allow"]


def test_head_is_answered_without_a_body(tenant: Tenant) -> None:
    answer = tenant.http.head("/v1/models")
    assert (answer.status_code, answer.content) == (405, b"")
    assert answer.headers["x-request-id"].startswith("req_")


def test_each_answer_has_an_id_of_its_own(tenant: Tenant) -> None:
    paths = ["/v1/models", "/v1/models", "/nothing", "/healthz", "/v1/responses", "/docs"]
    answers = [tenant.http.get(path, headers={"x-request-id": "req_mine"}) for path in paths]
    ids = [each.headers.get_list("x-request-id") for each in answers]
    assert all(len(each) == 1 and len(each[0]) == 36 for each in ids)
    assert len({each[0] for each in ids}) == len(ids)


@pytest.fixture
def broken(server: Server, tenant: Tenant, worker: FakeWorker) -> Iterator[str]:
    """A response whose row cannot be decoded; it is removed afterwards, as others read all rows."""
    job_id: str = tenant.submit("a secret prompt")["id"]
    worker.complete(job_id)
    with server.database.begin() as tx:
        spoil = text("UPDATE answers SET response = :garbage WHERE job_id = :job_id")
        tx.execute(spoil, {"garbage": "{a secret answer", "job_id": job_id})
    yield job_id
    with server.database.begin() as tx:
        tx.execute(text("DELETE FROM jobs WHERE id = :job_id"), {"job_id": job_id})


def test_an_internal_error_is_a_500_without_details(server: Server, tenant: Tenant, broken: str) -> None:
    for path in (f"/v1/responses/{broken}", f"/v1/responses/{broken}?wait=1", "/v1/responses"):
        with capture_logs() as logged:
            answer = tenant.http.get(path)
        message = assert_error(answer, 500, type_="server_error", code="server_error")
        assert message == "The server had an error while processing your request."
        assert "secret" not in answer.text
        (line,) = logged
        assert (line["event"], line["error"], line["log_level"]) == ("request failed", "JSONDecodeError", "error")
    assert tenant.http.get("/v1/models").status_code == 200


def assert_away(answer: httpx.Response, *, is_final: bool) -> None:
    error = answer.json()["error"]
    assert answer.status_code == 503
    assert (error["type"], error["code"], error["param"]) == ("server_error", "service_unavailable", None)
    assert answer.headers["retry-after"] == "2"
    assert answer.headers["x-request-id"].startswith("req_")
    # a failed create certainly submitted nothing; another POST may have taken effect
    assert answer.headers.get("x-should-retry") == ("false" if is_final else None)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_an_unavailable_database_is_a_503_on_every_route(
    kind: str, tmp_path_factory: pytest.TempPathFactory, shared_valkey: ValkeyServer
) -> None:
    directory = tmp_path_factory.mktemp("not-a-file")
    url = f"sqlite:///{directory}" if kind == "sqlite" else f"postgresql://nobody@127.0.0.1:{free_port()}/nothing"
    with serve(settings_for(url, shared_valkey.url)) as server, server.client("bb_any") as client:
        for method, path in DATABASE_ROUTES:
            answer = client.request(method, path, json=BODY if method == "POST" else None)
            assert_away(
                answer, is_final=method == "POST" and path != "/v1/responses"
            )  # its key has not been checked yet


def test_a_database_that_goes_away_comes_back_and_nothing_is_lost(
    postgres_server: PostgresServer, shared_valkey: ValkeyServer
) -> None:
    migrations.upgrade(postgres_server.url)
    with serve(settings_for(postgres_server.url, shared_valkey.url)) as server, a_tenant(server) as tenant:
        job_id = tenant.submit()["id"]
        postgres_server.stop()
        for method, path in DATABASE_ROUTES:
            answer = tenant.http.request(method, path, json=BODY if method == "POST" else None)
            assert_away(answer, is_final=method == "POST" and path != "/v1/responses")
        assert tenant.http.get("/healthz").status_code == 200
        postgres_server.start()
        assert tenant.ids() == [job_id]
        assert tenant.submit()["status"] == "queued"
