"""The models that this server offers. Their ids hold a slash."""

from datetime import UTC, datetime

import pytest

from tests.api.world import MODEL, Json, Server, Tenant, a_tenant, assert_error, serve, settings_for

pytestmark = pytest.mark.one_database

O3_PRO: Json = {
    "id": MODEL,
    "object": "model",
    "created": int(datetime(2025, 6, 10, tzinfo=UTC).timestamp()),
    "owned_by": "openai",
    "shutdown_date": "2026-12-11",
}


def test_the_list_holds_the_operators_models(server: Server) -> None:
    settings = settings_for(server.settings.database, server.settings.redis, models=["acme/thinker", MODEL])
    with serve(settings) as wider, a_tenant(wider) as tenant:
        page = tenant.http.get("/v1/models").json()
    assert (page["object"], page["has_more"]) == ("list", False)
    assert (page["first_id"], page["last_id"]) == ("acme/thinker", MODEL)
    other = {"id": "acme/thinker", "object": "model", "created": 0, "owned_by": "provider", "shutdown_date": None}
    assert page["data"] == [other, O3_PRO]


@pytest.mark.parametrize("path", ["openai/o3-pro", "openai%2Fo3-pro", "openai%2fo3-pro", "o3-pro", "openai/o3-pro/"])
def test_a_model_is_found_with_a_plain_or_an_escaped_slash(tenant: Tenant, path: str) -> None:
    answer = tenant.http.get(f"/v1/models/{path}")
    assert (answer.status_code, answer.json()) == (200, O3_PRO)


@pytest.mark.parametrize("path", ["gpt-17", "openai", "openai/", "openai/o3-pro//", "%00", "OPENAI/O3-PRO"])
def test_an_unknown_model_is_not_found(tenant: Tenant, path: str) -> None:
    assert_error(tenant.http.get(f"/v1/models/{path}"), 404, code="model_not_found", param="model")
