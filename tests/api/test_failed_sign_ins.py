"""Failed sign-ins are logged with address, path and key id, never with the key. A flood is logged as a count."""

from datetime import UTC, datetime
from typing import Any

import pytest
from structlog.testing import capture_logs

import api.failed_sign_ins
from jobs.store.api_keys import digest, revoke_key
from tests.api.world import MODEL, Server, Tenant, serve
from tests.support.waiting import await_until

pytestmark = pytest.mark.one_database

WRONG = "bb_a-wrong-key-of-some-length"


def of(logged: list[Any], event: str) -> list[Any]:
    return [each for each in logged if each["event"] == event]


def test_each_failed_sign_in_is_one_log_line_without_secrets(server: Server, tenant: Tenant) -> None:
    with serve(server.settings) as fresh, fresh.client() as nobody, fresh.client(WRONG) as stranger:
        with server.database.begin() as tx:
            revoke_key(tx, tenant.id, datetime.now(UTC))
        with fresh.client(tenant.secret) as former, capture_logs() as logged:
            assert nobody.get("/v1/models").status_code == 401
            assert stranger.get("/v1/responses?metadata[case]=a-secret-case").status_code == 401
            assert former.post("/v1/responses", json={"model": MODEL, "input": "x"}).status_code == 401
            assert stranger.get("/v1/nothing%0A%1B[31m/here").status_code == 404, "that path needs no key"
    common = {"event": "sign-in failed", "log_level": "warning", "client": "127.0.0.1"}
    assert of(logged, "sign-in failed") == [
        common | {"reason": "missing", "key": None, "key_id": None, "method": "GET", "path": "/v1/models"},
        common
        | {"reason": "unknown", "key": digest(WRONG)[:8], "key_id": None, "method": "GET", "path": "/v1/responses"},
        common
        | {
            "reason": "revoked",
            "key": digest(tenant.secret)[:8],
            "key_id": tenant.id,
            "method": "POST",
            "path": "/v1/responses",
        },
    ]
    for secret in (WRONG, tenant.secret, digest(WRONG), "a-secret-case"):
        assert secret not in str(logged)


def test_a_key_that_was_revoked_after_use_is_logged_as_revoked(server: Server, tenant: Tenant) -> None:
    body = {"model": MODEL, "input": "x", "background": True}
    assert tenant.http.post("/v1/responses", json=body).status_code == 200
    with server.database.begin() as tx:
        revoke_key(tx, tenant.id, datetime.now(UTC))
    with capture_logs() as logged:
        assert tenant.http.post("/v1/responses", json=body).status_code == 401
    [line] = of(logged, "sign-in failed")
    assert (line["reason"], line["key_id"]) == ("revoked", tenant.id)


def test_a_flood_is_logged_as_some_lines_and_a_count(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    flood = 300
    monkeypatch.setattr(api.failed_sign_ins, "WINDOW_SECONDS", 30.0)
    with serve(server.settings) as fresh, fresh.client(WRONG) as stranger, capture_logs() as logged:
        for _ in range(flood):
            assert stranger.get("/v1/models").status_code == 401
        fresh.stop()
        await_until(lambda: of(logged, "more sign-ins failed"), 10, "they were not counted")
    assert len(of(logged, "sign-in failed")) == 20
    [rest] = of(logged, "more sign-ins failed")
    assert rest["count"] == flood - 20


def test_the_count_is_logged_even_if_no_further_sign_in_fails(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api.failed_sign_ins, "WINDOW_SECONDS", 1.0)
    monkeypatch.setattr(api.failed_sign_ins, "LOGGED_EACH", 1)
    with serve(server.settings) as fresh, fresh.client(WRONG) as stranger, capture_logs() as logged:
        for _ in range(3):
            assert stranger.get("/v1/models").status_code == 401
        await_until(lambda: of(logged, "more sign-ins failed"), 5, "they were not counted")
        assert stranger.get("/v1/models").status_code == 401
        await_until(lambda: len(of(logged, "sign-in failed")) == 2, 5, "the next window has no line of its own")
