"""The server always requests encrypted reasoning, and shows it only to clients that request it."""

import json
from typing import Any

import pytest

from jobs.request_fields import ENCRYPTED_REASONING
from tests.api.world import FakeWorker, Tenant, message

SECRET = "gAAAAA-of-the-provider"
OUTPUT = [{"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": SECRET}, message("There.")]
INCLUDE = {"include[]": ENCRYPTED_REASONING}


def doors(tenant: Tenant, worker: FakeWorker, **fields: Any) -> dict[str, str]:
    """Return everything that a client can read of one response, by route."""
    response_id = tenant.submit("Where?", stream=False, **fields)["id"]
    worker.complete(response_id, output=OUTPUT, include=[ENCRYPTED_REASONING])
    follow_up = tenant.submit("And then?", previous_response_id=response_id)["id"]
    paths = {
        "retrieve": f"/v1/responses/{response_id}",
        "wait": f"/v1/responses/{response_id}?wait=1",
        "list": "/v1/responses",
        "replay": f"/v1/responses/{response_id}?stream=true",
        "cancel": f"/v1/responses/{response_id}/cancel",
    }
    shown = {
        route: tenant.http.request("POST" if route == "cancel" else "GET", path).raise_for_status().text
        for route, path in paths.items()
    }
    items = f"/v1/responses/{follow_up}/input_items"
    shown["items"] = tenant.http.get(items).raise_for_status().text
    shown["asked of the items"] = tenant.http.get(items, params=INCLUDE).raise_for_status().text
    shown["asked of retrieve"] = tenant.http.get(paths["retrieve"], params=INCLUDE).raise_for_status().text
    return shown


def test_encrypted_reasoning_is_left_out_unless_requested(tenant: Tenant, worker: FakeWorker) -> None:
    shown = doors(tenant, worker)
    assert {route for route, text in shown.items() if SECRET in text} == {"asked of the items", "asked of retrieve"}
    assert all("rs_1" in text for text in shown.values())
    assert "include" not in json.loads(shown["retrieve"])


@pytest.mark.parametrize("include", [[ENCRYPTED_REASONING], ["message.output_text.logprobs", ENCRYPTED_REASONING]])
def test_encrypted_reasoning_is_shown_if_requested(tenant: Tenant, worker: FakeWorker, include: list[str]) -> None:
    shown = doors(tenant, worker, include=include)
    assert {route for route, text in shown.items() if SECRET not in text} == {"items"}
    assert json.loads(shown["retrieve"])["include"] == include
