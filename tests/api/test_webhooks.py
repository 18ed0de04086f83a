"""The webhook routes, through the SDK's own resource. Nothing is delivered. The tests check rows."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import openai
import pytest
from openai import OpenAI
from pydantic import SecretStr
from sqlalchemy import select

from jobs.encryption import generate_key
from jobs.store import schema
from jobs.store.api_keys import Scope
from jobs.store.database import Database
from jobs.store.webhooks.claims import claim_deliveries
from jobs.store.webhooks.results import record_delivery_attempt
from jobs.webhooks.protocol import DeliveryError, DeliveryReport, key_of
from tests.api.world import MODEL, FakeWorker, Server, Tenant, a_tenant, assert_error, serve, settings_for
from tests.support.waiting import await_until
from tests.webhooks import hostile

URL = "https://93.184.215.14/hook"
FOUND = {
    "good.example.com": ["93.184.215.14"],
    "inside.example.com": ["10.0.0.1"],
    "metadata.example.com": ["169.254.169.254"],
    "both.example.com": ["93.184.215.14", "10.0.0.1"],
    "empty.example.com": [],
}
EVENTS: Any = ["response.completed", "response.failed"]
NOBODYS = "we_00000000000000000000000000000000"
NO_DELIVERY = "whd_00000000000000000000000000000000"


@pytest.fixture(scope="session")
def server(shared_database_url: str, shared_valkey: Any) -> Iterator[Server]:
    """A server with an encryption key."""
    keys = [SecretStr(generate_key())]
    with serve(settings_for(shared_database_url, shared_valkey.url, encryption_keys=keys)) as server:
        yield server


@pytest.fixture
def client(server: Server, tenant: Tenant) -> Iterator[OpenAI]:
    """The SDK with validation of every answer against its own types."""
    with OpenAI(
        base_url=f"{server.url}/v1", api_key=tenant.secret, _strict_response_validation=True, max_retries=0
    ) as client:
        yield client


def test_the_sdk_manages_endpoints(client: OpenAI) -> None:
    """[0.16]"""
    made = client.webhooks.create(name="mine", url=URL, event_types=EVENTS)
    assert len(key_of(made.signing_secret)) == 32
    assert made.signing_secret_hint == f"whsec_***{made.signing_secret[-4:]}"
    found = client.webhooks.retrieve(made.id)
    assert (found.name, found.url, found.event_types, found.object) == ("mine", URL, EVENTS, "webhook_endpoint")
    assert "signing_secret" not in found.model_dump()
    assert [each.id for each in client.webhooks.list().data] == [made.id]
    changed = client.webhooks.update(made.id, name="yours", event_types=["response.cancelled"])
    assert (changed.name, changed.url, changed.event_types) == ("yours", URL, ["response.cancelled"])
    rotated = client.webhooks.rotate_secret(made.id)
    assert rotated.signing_secret != made.signing_secret
    gone = client.webhooks.delete(made.id)
    assert (gone.id, gone.deleted, gone.object) == (made.id, True, "webhook_endpoint.deleted")
    with pytest.raises(openai.NotFoundError):
        client.webhooks.retrieve(made.id)


def test_the_sdk_asks_for_event_types_and_pages(client: OpenAI) -> None:
    assert client.webhooks.event_types.list().data == [
        "response.completed",
        "response.failed",
        "response.cancelled",
        "response.incomplete",
    ]
    made = [client.webhooks.create(name=str(number), url=URL, event_types=EVENTS).id for number in range(3)]
    first = client.webhooks.list(limit=2)
    assert ([each.id for each in first.data], first.has_more) == (made[:0:-1], True)
    second = client.webhooks.list(limit=2, after=first.data[-1].id)
    assert ([each.id for each in second.data], second.has_more) == (made[:1], False)


def test_the_old_secret_stays_valid_only_on_request(server: Server, client: OpenAI) -> None:
    made = client.webhooks.create(name="mine", url=URL, event_types=EVENTS)
    row = schema.webhook_endpoints.c

    def former() -> tuple[Any, Any]:
        with server.database.read() as tx:
            found = tx.execute(select(row.former_secret, row.former_until).where(row.id == made.id)).one()
        return found.former_secret, found.former_until

    client.webhooks.rotate_secret(made.id, keep_old_secret_active_for_24_hours=True)
    encrypted, until = former()
    assert server.state.cipher.decrypt(encrypted) == made.signing_secret
    assert 86_390 < (until - datetime.now(UTC)).total_seconds() <= 86_400
    client.webhooks.rotate_secret(made.id)
    assert former() == (None, None)


def test_secrets_are_stored_encrypted_and_never_shown_again(server: Server, tenant: Tenant, client: OpenAI) -> None:
    made = client.webhooks.create(name="mine", url=URL, event_types=EVENTS)
    mine = "a secret of the caller's own"
    accepted = tenant.submit(webhook={"url": URL, "secret": mine, "events": ["response.completed"]})
    shown = [accepted, tenant.get(accepted["id"]), tenant.http.get(f"/v1/webhook_endpoints/{made.id}").json()]
    for secret in (mine, made.signing_secret):
        assert all(secret not in str(each) for each in shown)
        assert secret not in everything(server.database)


def everything(database: Database) -> str:
    with database.read() as tx:
        return "".join(str(row) for table in schema.metadata.sorted_tables for row in tx.execute(select(table)))


ROUTES: list[tuple[str, str, Any]] = [
    ("GET", "/v1/webhook_endpoints/{}", None),
    ("POST", "/v1/webhook_endpoints/{}", {"name": "stolen"}),
    ("DELETE", "/v1/webhook_endpoints/{}", None),
    ("POST", "/v1/webhook_endpoints/{}/rotate_secret", {}),
    ("POST", "/v1/webhook_endpoints/{}/test", {"event_type": "response.completed"}),
    ("GET", "/v1/webhook_endpoints/{}/deliveries", None),
    ("POST", "/v1/webhook_endpoints/{}/recover", {"since": 0}),
]


def register(tenant: Tenant) -> str:
    answer = tenant.http.post("/v1/webhook_endpoints", json={"name": "mine", "url": URL, "event_types": EVENTS})
    assert answer.status_code == 200, answer.text
    made: str = answer.json()["id"]
    return made


def test_a_foreign_id_is_answered_like_an_unknown_one_and_stays_unchanged(
    tenant: Tenant, other: Tenant, worker: FakeWorker
) -> None:
    foreign = register(other)
    worker.complete(other.submit()["id"])
    log = other.http.get(f"/v1/webhook_endpoints/{foreign}/deliveries").json()
    before = other.http.get(f"/v1/webhook_endpoints/{foreign}").json()
    delivery_id = log["data"][0]["id"]
    for method, path, body in ROUTES:
        for each in (foreign, NOBODYS):
            assert_error(tenant.http.request(method, path.format(each), json=body), 404, param="webhook_endpoint_id")
    for each in (delivery_id, NO_DELIVERY):
        answer = tenant.http.post(f"/v1/webhook_deliveries/{each}/redeliver")
        assert_error(answer, 404, param="webhook_delivery_id")
    assert tenant.http.get("/v1/webhook_endpoints").json()["data"] == []
    assert other.http.get(f"/v1/webhook_endpoints/{foreign}").json() == before
    assert other.http.get(f"/v1/webhook_endpoints/{foreign}/deliveries").json() == log


def test_the_scope_is_required(server: Server) -> None:
    with a_tenant(server, [Scope.RESPONSES_READ, Scope.RESPONSES_WRITE]) as reader:
        for method, path, body in [*ROUTES, ("GET", "/v1/webhook_event_types", None)]:
            answer = reader.http.request(method, path.format(NOBODYS), json=body)
            assert_error(answer, 403, type_="permission_error", code="insufficient_permissions")
        body = {"model": MODEL, "input": "x", "background": True, "webhook": {"url": URL}}
        answer = reader.http.post("/v1/responses", json=body)
        assert_error(answer, 403, type_="permission_error", code="insufficient_permissions", param="webhook")


REFUSED = [*(hostile.url_of(each) for each in hostile.BY_ADDRESS), *hostile.BY_SPELLING]
REFUSED += ["https://localhost/", "http://93.184.215.14/", "https://93.184.215.14:22/", f"https://{'a' * 2048}/", ""]


@pytest.mark.one_database
def test_a_forbidden_url_is_refused_by_field(tenant: Tenant) -> None:
    for url in REFUSED:
        body = {"name": "x", "url": url, "event_types": EVENTS}
        answer = tenant.http.post("/v1/webhook_endpoints", json=body)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "url"), url
        whole = {"model": MODEL, "input": "x", "background": True, "webhook": {"url": url}}
        answer = tenant.http.post("/v1/responses", json=whole)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "webhook.url"), url
    endpoint = register(tenant)
    for url in REFUSED[:10]:
        answer = tenant.http.post(f"/v1/webhook_endpoints/{endpoint}", json={"url": url})
        assert_error(answer, 400, code="invalid_value", param="url")
    assert tenant.ids() == []


@pytest.mark.one_database
class TestNames:
    """Callers cannot learn what a host name resolves to. A slow lookup does not delay other keys."""

    @pytest.fixture
    def server(self, server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
        """A server that resolves the test's own names. Lookups of some never end."""
        let_go = threading.Event()

        def look_up(host: str, port: int, **_: Any) -> list[tuple[Any, ...]]:
            if host.startswith("hangs"):
                let_go.wait(60)
            if host not in FOUND:
                raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
            return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", (each, port)) for each in FOUND[host]]

        monkeypatch.setattr(server.state.lookups, "_look_up", look_up)
        monkeypatch.setattr(server.state.lookups, "_seconds", 1.0)
        yield server
        let_go.set()

    def ask(self, tenant: Tenant, host: str) -> tuple[dict[str, Any], float]:
        started_at = time.monotonic()
        body = {"name": "x", "url": f"https://{host}/", "event_types": EVENTS}
        answer: dict[str, Any] = tenant.http.post("/v1/webhook_endpoints", json=body).json()
        return answer, time.monotonic() - started_at

    def test_a_refusal_does_not_reveal_which_internal_names_resolve(self, server: Server, tenant: Tenant) -> None:
        hosts = ["unknown.example.com", "inside.example.com", "hangs.example.com", "empty.example.com"]
        hosts += ["both.example.com", "metadata.example.com"]
        answers = {host: self.ask(tenant, host) for host in hosts}
        assert all("error" in answer for answer, _ in answers.values()), answers
        assert len({json.dumps(answer) for answer, _ in answers.values()}) == 1
        seconds = [took for _, took in answers.values()]
        assert min(seconds) >= 1.0
        assert max(seconds) < 1.9
        by_address, _ = self.ask(tenant, "10.0.0.1")
        assert by_address == answers["inside.example.com"][0]
        endpoint = register(tenant)
        for host in hosts[:3]:
            url = f"https://{host}/"
            answer = tenant.http.post(f"/v1/webhook_endpoints/{endpoint}", json={"url": url})
            assert answer.json() == by_address
            whole = {"model": MODEL, "input": "x", "background": True, "webhook": {"url": url}}
            error = tenant.http.post("/v1/responses", json=whole).json()["error"]
            assert error["message"].replace("webhook.url", "url") == by_address["error"]["message"]
        assert tenant.submit(webhook={"url": "https://good.example.com/"})["status"] == "queued"

    def test_the_delivery_log_shows_one_error_for_unknown_and_internal_names(
        self, server: Server, tenant: Tenant, worker: FakeWorker
    ) -> None:
        endpoint = register(tenant)
        row = schema.webhook_deliveries.c
        errors = []
        for error in (DeliveryError.NAME_UNRESOLVED, DeliveryError.ADDRESS_REFUSED):
            worker.complete(tenant.submit()["id"])
            with server.database.begin() as tx:
                newest = select(row.id).where(row.endpoint_id == endpoint).order_by(row.id.desc()).limit(1)
                [sending] = claim_deliveries(tx, [tx.execute(newest).scalar_one()], "wrk_0", datetime.now(UTC)).values()
                record_delivery_attempt(tx, sending, DeliveryReport(error), datetime.now(UTC), 0)
            newest_error = tenant.http.get(f"/v1/webhook_endpoints/{endpoint}/deliveries").json()["data"][0]
            errors += [newest_error["error"], newest_error["attempts"][0]["error"]]
        assert errors == ["address_refused"] * 4

    def test_slow_lookups_delay_neither_other_keys_nor_the_api(
        self, server: Server, tenant: Tenant, other: Tenant
    ) -> None:
        server.state.lookups._seconds = 5.0
        with ThreadPoolExecutor(80) as threads:
            asking = [threads.submit(self.ask, tenant, f"hangs{number}.example.com") for number in range(80)]
            lookups = server.state.lookups
            await_until(lambda: len(lookups._waiting.get(tenant.id, ())) == 80 - 24, 4, "they do not all wait")
            for path in ("/readyz", "/healthz", "/v1/models"):
                started_at = time.monotonic()
                other.http.get(path)
                assert time.monotonic() - started_at < 1.5, path
            answer, took = self.ask(other, "good.example.com")
            assert (answer["object"], took < 1.5) == ("webhook_endpoint", True)
            assert not any(each.done() for each in asking)
            assert all("error" in each.result()[0] for each in asking)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "name"),
        ({"name": "x", "url": URL}, "event_types"),
        ({"name": "x", "url": URL, "event_types": []}, "event_types"),
        ({"name": "x", "url": URL, "event_types": ["batch.completed"]}, "event_types[0]"),
        ({"name": "x\0", "url": URL, "event_types": EVENTS}, "name"),
        ({"name": "", "url": URL, "event_types": EVENTS}, "name"),
        ({"name": 1, "url": URL, "event_types": EVENTS}, "name"),
        ({"name": "x", "url": ["x"], "event_types": EVENTS}, "url"),
    ],
)
def test_a_bad_body_is_refused_by_field(tenant: Tenant, body: Any, param: str) -> None:
    answer = tenant.http.post("/v1/webhook_endpoints", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


@pytest.mark.parametrize("path", ["/v1/webhook_endpoints/a%00b", "/v1/webhook_endpoints?after=%00"])
def test_a_nul_character_causes_no_internal_error(tenant: Tenant, path: str) -> None:
    assert tenant.http.get(path).status_code == 400


@pytest.mark.parametrize("since", [-1, 1e300, "yesterday", None])
def test_recover_requires_a_valid_time(tenant: Tenant, since: Any) -> None:
    answer = tenant.http.post(f"/v1/webhook_endpoints/{register(tenant)}/recover", json={"since": since})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "since")


def test_the_delivery_log_redelivery_and_recovery(tenant: Tenant, worker: FakeWorker) -> None:
    endpoint = register(tenant)
    job_id = tenant.submit()["id"]
    worker.complete(job_id)
    [delivery] = tenant.http.get(f"/v1/webhook_endpoints/{endpoint}/deliveries").json()["data"]
    assert delivery["event_type"] == "response.completed"
    assert (delivery["response_id"], delivery["status"], delivery["attempts"]) == (job_id, "pending", [])
    again = tenant.http.post(f"/v1/webhook_deliveries/{delivery['id']}/redeliver").json()
    assert (again["id"], again["status"]) == (delivery["id"], "pending")
    failed = tenant.http.get(f"/v1/webhook_endpoints/{endpoint}/deliveries?status=failed").json()
    assert failed["data"] == []
    recovered = tenant.http.post(f"/v1/webhook_endpoints/{endpoint}/recover", json={"since": 0}).json()
    assert recovered["deliveries"] == 0


def test_a_webhook_on_a_held_request_is_refused(tenant: Tenant) -> None:
    answer = tenant.http.post("/v1/responses", json={"model": MODEL, "input": "x", "webhook": {"url": URL}})
    assert_error(answer, 400, code="unsupported_parameter", param="webhook")


def test_a_key_may_have_at_most_a_hundred_endpoints(
    server: Server, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.store.webhooks.endpoints.MOST_ENDPOINTS", 2)
    for _ in range(2):
        register(tenant)
    body = {"name": "x", "url": URL, "event_types": EVENTS}
    assert_error(tenant.http.post("/v1/webhook_endpoints", json=body), 400, code="too_many_webhook_endpoints")


def test_without_an_encryption_key_the_error_names_the_variable(server: Server) -> None:
    settings = settings_for(server.settings.database, server.settings.redis)
    with serve(settings) as keyless, a_tenant(keyless) as tenant:
        body = {"name": "x", "url": URL, "event_types": EVENTS}
        answer = tenant.http.post("/v1/webhook_endpoints", json=body)
        assert "BACKBURNER_ENCRYPTION_KEYS" in assert_error(answer, 400, code="webhooks_unavailable")
        whole = {
            "model": MODEL,
            "input": "x",
            "background": True,
            "webhook": {"url": URL, "secret": "one secret of my own"},
        }
        answer = tenant.http.post("/v1/responses", json=whole)
        assert "BACKBURNER_ENCRYPTION_KEYS" in assert_error(answer, 400, code="unsupported_parameter", param="webhook")
        assert tenant.submit(webhook={"url": URL})["status"] == "queued"
        tools = [{"type": "mcp", "server_label": "x", "server_url": "https://mcp.example", "authorization": "secret"}]
        answer = tenant.http.post("/v1/responses", json={"model": MODEL, "input": "x", "tools": tools})
        answers = assert_error(answer, 400, code="unsupported_parameter", param="tools[0].authorization")
        assert "BACKBURNER_ENCRYPTION_KEYS" in answers
