"""Encrypted reasoning is asked for by the server itself, and shown to those alone who ask for it."""

import json
from typing import Any

import pytest

from jobs.request_fields import ENCRYPTED_REASONING
from tests.api.world import Hand, Tenant, message

SECRET = "gAAAAA-of-the-provider"
OUTPUT = [{"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": SECRET}, message("There.")]
INCLUDE = {"include[]": ENCRYPTED_REASONING}


def doors(tenant: Tenant, hand: Hand, **fields: Any) -> dict[str, str]:
    """What a client is sent of one response, wherever it looks."""
    response_id = tenant.submit("Where?", stream=False, **fields)["id"]
    hand.complete(response_id, output=OUTPUT, include=[ENCRYPTED_REASONING])
    follow_up = tenant.submit("And then?", previous_response_id=response_id)["id"]
    paths = {
        "retrieve": f"/v1/responses/{response_id}",
        "wait": f"/v1/responses/{response_id}?wait=1",
        "list": "/v1/responses",
        "replay": f"/v1/responses/{response_id}?stream=true",
        "cancel": f"/v1/responses/{response_id}/cancel",
    }
    shown = {
        door: tenant.http.request("POST" if door == "cancel" else "GET", path).raise_for_status().text
        for door, path in paths.items()
    }
    items = f"/v1/responses/{follow_up}/input_items"
    shown["items"] = tenant.http.get(items).raise_for_status().text
    shown["asked of the items"] = tenant.http.get(items, params=INCLUDE).raise_for_status().text
    shown["asked of retrieve"] = tenant.http.get(paths["retrieve"], params=INCLUDE).raise_for_status().text
    return shown


def test_who_did_not_ask_sees_none_of_it(tenant: Tenant, hand: Hand) -> None:
    shown = doors(tenant, hand)
    assert {door for door, text in shown.items() if SECRET in text} == {"asked of the items", "asked of retrieve"}
    assert all("rs_1" in text for text in shown.values())
    assert "include" not in json.loads(shown["retrieve"])


@pytest.mark.parametrize("include", [[ENCRYPTED_REASONING], ["message.output_text.logprobs", ENCRYPTED_REASONING]])
def test_who_asked_sees_it(tenant: Tenant, hand: Hand, include: list[str]) -> None:
    shown = doors(tenant, hand, include=include)
    assert {door for door, text in shown.items() if SECRET not in text} == {"items"}
    assert json.loads(shown["retrieve"])["include"] == include
