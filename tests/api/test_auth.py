"""Every route requires an API key with the scope of its operation."""

from datetime import UTC, datetime

import httpx
import pytest
from sqlalchemy import select, update

from jobs.store import schema
from jobs.store.api_keys import BOOTSTRAP_ID, Scope, revoke_key
from tests.api.world import MODEL, FakeWorker, Json, Server, Tenant, a_tenant, assert_error, serve, settings_for

READ, WRITE, USAGE = Scope.RESPONSES_READ, Scope.RESPONSES_WRITE, Scope.USAGE_READ
NOBODYS = "resp_00000000000000000000000000000000"

ROUTES: list[tuple[str, str, Scope | None]] = [
    ("POST", "/v1/responses", WRITE),
    ("GET", "/v1/responses", READ),
    ("GET", f"/v1/responses/{NOBODYS}", READ),
    ("GET", f"/v1/responses/{NOBODYS}?wait=1", READ),
    ("GET", f"/v1/responses/{NOBODYS}/attempts", READ),
    ("POST", f"/v1/responses/{NOBODYS}/cancel", WRITE),
    ("POST", f"/v1/responses/{NOBODYS}/retry", WRITE),
    ("DELETE", f"/v1/responses/{NOBODYS}", WRITE),
    ("GET", "/v1/usage", USAGE),
    ("GET", "/v1/models", None),
    ("GET", "/v1/models/openai/o3-pro", None),
]
OPEN = ["/healthz", "/readyz", "/metrics", "/openapi.json", "/docs"]

each_route = pytest.mark.parametrize(("method", "path", "scope"), ROUTES, ids=[f"{m} {p}" for m, p, _ in ROUTES])


def assert_refused(answer: httpx.Response) -> str:
    assert answer.headers["www-authenticate"] == "Bearer"
    return assert_error(answer, 401, type_="authentication_error", code="invalid_api_key")


@each_route
def test_no_route_answers_without_a_key(server: Server, method: str, path: str, scope: Scope | None) -> None:
    with server.client() as client:
        assert "didn't provide an API key" in assert_refused(client.request(method, path))


@each_route
def test_no_route_answers_a_wrong_key(server: Server, method: str, path: str, scope: Scope | None) -> None:
    with server.client("bb_wrong") as client:
        assert "bb_wrong" not in assert_refused(client.request(method, path))


@each_route
def test_a_key_needs_the_routes_scope_and_no_other(server: Server, method: str, path: str, scope: Scope | None) -> None:
    with a_tenant(server, [each for each in Scope if each is not scope]) as lacking:
        answer = lacking.http.request(method, path)
        if scope is None:
            assert answer.status_code == 200
        else:
            found = assert_error(answer, 403, type_="permission_error", code="insufficient_permissions")
            assert scope in found
    with a_tenant(server, [scope] if scope else []) as having:
        assert having.http.request(method, path).status_code not in {401, 403}


@pytest.mark.parametrize("value", ["", "Bearer", "Basic {}", "{}", "Token {}", "Bearer \xff", "Bearer x {}"])
def test_anything_but_a_bearer_key_is_refused(tenant: Tenant, value: str) -> None:
    header = value.format(tenant.secret).encode("latin-1")
    assert_refused(tenant.http.get("/v1/models", headers=[(b"authorization", header)]))


def test_the_scheme_is_read_in_any_case(tenant: Tenant) -> None:
    answer = tenant.http.get("/v1/models", headers={"authorization": f"bearer {tenant.secret}"})
    assert answer.status_code == 200


def test_a_revoked_key_is_refused_at_once_and_its_jobs_go_on(
    server: Server, tenant: Tenant, worker: FakeWorker
) -> None:
    job_id = tenant.submit()["id"]
    with server.database.begin() as tx:
        revoke_key(tx, tenant.id, datetime.now(UTC))
    assert_refused(tenant.http.get(f"/v1/responses/{job_id}"))
    assert worker.complete(job_id).status == "completed"


@pytest.mark.parametrize(
    ("fields", "headers"),
    [
        ({}, {}),
        ({"background": False}, {}),
        ({"stream": True}, {}),
        ({"input": "x" * 100_000}, {}),  # a large input is written outside the batch
        ({"input": 7}, {}),  # invalid, which a caller without a key does not learn
        ({"max_output_tokens": "x" * 3_000_000}, {}),  # more than the server takes
        ({}, {"idempotency-key": "the first"}),
        ({}, {"x-stainless-retry-count": "0"}),
        ({}, {"x-stainless-retry-count": "1"}),
        ({"previous_response_id": NOBODYS}, {}),
        ({"webhook": {"url": "https://example.com"}}, {}),
    ],
    ids=lambda given: ",".join(given) or "-",
)
def test_a_key_that_is_revoked_after_a_create_creates_nothing_more(
    server: Server, tenant: Tenant, fields: Json, headers: dict[str, str]
) -> None:
    """The first create caches the key. Only the transaction of the next create checks it again."""
    body = {"model": MODEL, "input": "Hello", "background": True}
    first = tenant.http.post("/v1/responses", json=body, headers={"idempotency-key": "the first"})
    assert first.status_code == 200
    with server.database.begin() as tx:
        revoke_key(tx, tenant.id, datetime.now(UTC))
    for _ in range(2):
        assert_refused(tenant.http.post("/v1/responses", json=body | fields, headers=headers))
    with server.database.read() as tx:
        made = tx.execute(select(schema.jobs.c.id).where(schema.jobs.c.api_key_id == tenant.id))
        assert list(made.scalars()) == [first.json()["id"]]


def test_an_error_for_a_revoked_key_does_not_name_the_missing_scope(server: Server) -> None:
    with a_tenant(server, [READ]) as reader:
        body = {"model": MODEL, "input": "Hello", "background": True}
        assert reader.http.get("/v1/responses").status_code == 200
        assert reader.http.post("/v1/responses", json=body).status_code == 403
        with server.database.begin() as tx:
            revoke_key(tx, reader.id, datetime.now(UTC))
        assert_refused(reader.http.post("/v1/responses", json=body))


def test_a_scope_that_is_changed_in_the_database_counts_at_once(server: Server) -> None:
    def give(*scopes: Scope) -> None:
        with server.database.begin() as tx:
            keys = schema.api_keys
            tx.execute(update(keys).where(keys.c.id == holder.id).values(scopes=sorted(scopes)))

    with a_tenant(server, [READ]) as holder:
        body = {"model": MODEL, "input": "Hello", "background": True}
        assert holder.http.post("/v1/responses", json=body).status_code == 403
        give(READ, WRITE)
        assert holder.http.post("/v1/responses", json=body).status_code == 200
        assert holder.http.post("/v1/responses", json=body).status_code == 200
        give(READ)
        assert holder.http.post("/v1/responses", json=body).status_code == 403
        assert len(holder.ids()) == 2


@pytest.mark.parametrize("path", OPEN)
def test_routes_for_the_operator_need_no_key(server: Server, path: str) -> None:
    with server.client() as client:
        assert client.get(path).status_code in {200, 503}


def test_the_bootstrap_key_has_every_scope_and_a_changed_one_replaces_it(server: Server) -> None:
    first, second = "bb_first-bootstrap", "bb_second-bootstrap"
    for secret in (first, second):
        settings = settings_for(server.settings.database, server.settings.redis, api_key=secret)
        with serve(settings) as booted, booted.client(secret) as client:
            for path in ("/v1/models", "/v1/responses", "/v1/usage"):
                assert client.get(path).status_code == 200
            accepted = client.post("/v1/responses", json={"model": "o3-pro", "input": "x", "background": True})
            assert accepted.status_code == 200
            assert FakeWorker(server).job(accepted.json()["id"]).api_key_id == BOOTSTRAP_ID
    with server.client(first) as client:
        assert_refused(client.get("/v1/models"))


def test_a_new_bootstrap_key_works_after_the_old_one_was_revoked(server: Server) -> None:
    secrets = ("bb_leaked-bootstrap", "bb_fresh-bootstrap")
    leaked, fresh = (settings_for(server.settings.database, server.settings.redis, api_key=each) for each in secrets)
    with serve(leaked) as booted, booted.client(secrets[0]) as client:
        assert client.get("/v1/models").status_code == 200
        with server.database.begin() as tx:
            revoke_key(tx, BOOTSTRAP_ID, datetime.now(UTC))
        assert_refused(client.get("/v1/models"))
    with serve(leaked) as booted, booted.client(secrets[0]) as client:
        assert_refused(client.get("/v1/models"))
    with serve(fresh) as booted, booted.client(secrets[1]) as client, booted.client(secrets[0]) as thief:
        assert client.get("/v1/models").status_code == 200
        assert_refused(thief.get("/v1/models"))


def test_a_server_that_knows_the_bootstrap_key_refuses_it_once_another_server_has_changed_it(server: Server) -> None:
    first, second = (
        settings_for(server.settings.database, server.settings.redis, api_key=secret)
        for secret in ("bb_one-of-the-two", "bb_two-of-the-two")
    )
    body = {"model": MODEL, "input": "Hello", "background": True}
    with serve(first) as before, before.client("bb_one-of-the-two") as client:
        assert client.post("/v1/responses", json=body).status_code == 200
        with serve(second):
            assert_refused(client.post("/v1/responses", json=body))
