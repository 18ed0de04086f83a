"""Input items in a form that no provider refuses, in either dialect."""

from typing import Any

import pytest

from jobs.settings import Dialect
from worker.provider.request_dialect import in_dialect

Json = dict[str, Any]

RS: Json = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAAA"}
FC: Json = {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "f", "arguments": "{}"}
OUT: Json = {"type": "function_call_output", "call_id": "call_1", "output": "x"}
MSG: Json = {"type": "message", "id": "msg_1", "role": "assistant", "content": [{"type": "output_text", "text": "a"}]}
ASK: Json = {"type": "mcp_approval_request", "id": "mcpr_1", "name": "f", "server_label": "s", "arguments": "{}"}
YES: Json = {"type": "mcp_approval_response", "approval_request_id": "mcpr_1", "approve": True}
LONG = "call_" + "x" * 60


def sent(*items: Json) -> list[Json]:
    body = {"model": "m", "input": [*items]}
    formed: list[Json] = in_dialect(body, Dialect.OPENAI)["input"]
    assert in_dialect({**body, "input": formed}, Dialect.OPENAI)["input"] == formed
    return formed


def without(item: Json, name: str = "id") -> Json:
    return {key: value for key, value in item.items() if key != name}


@pytest.mark.parametrize(
    ("given", "goes"),
    [
        ([RS, FC, OUT, {**RS, "id": "rs_2"}, MSG], [RS, FC, OUT, {**RS, "id": "rs_2"}, MSG]),
        ([FC, OUT, MSG], [without(FC), OUT, without(MSG)]),
        ([RS, FC, OUT, MSG], [RS, FC, OUT, without(MSG)]),
        ([RS, FC, FC], [RS, FC, without(FC)]),
        ([RS, RS, FC], [RS, without(RS), without(FC)]),
        ([RS, {**FC, "id": "call_1"}], [RS, without(FC)]),
        ([RS, {**FC, "id": ""}], [RS, without(FC)]),
        ([RS, {**FC, "id": "fc_" + "x" * 62}], [RS, without(FC)]),
        ([RS, {**FC, "id": "fc_1/2"}], [RS, without(FC)]),
        ([RS, {**FC, "id": None}], [RS, without(FC)]),
        ([{**RS, "id": "item_1"}, FC], [without(RS), without(FC)]),
        ([{"role": "user", "id": "msg_7", "content": "x"}], [{"role": "user", "content": "x"}]),
        ([{**OUT, "id": "fco_1"}], [OUT]),
        ([{"type": "acme:hit", "id": "h_1"}] * 2, [{"type": "acme:hit", "id": "h_1"}] * 2),
        ([{"type": "acme:hit", "id": "h" * 65}], [{"type": "acme:hit"}]),
        ([{"type": "item_reference", "id": "x" * 99}], [{"type": "item_reference", "id": "x" * 99}]),
        ([{"type": "image_generation_call", "id": "ig_1"}], [{"type": "image_generation_call", "id": "ig_1"}]),
    ],
)
def test_an_id_is_sent_only_after_its_reasoning(given: list[Json], goes: list[Json]) -> None:
    assert sent(*given) == goes


def test_kinds_that_must_have_an_id_get_one() -> None:
    search = {"type": "web_search_call", "status": "completed", "action": {"type": "search", "query": "x"}}
    found = sent(search, {**search, "id": "ws_1"}, RS, {**search, "id": "ws_1"})
    assert [without(item) for item in found] == [search, search, without(RS), search]
    assert len({item["id"] for item in found}) == 4
    assert all(item["id"].startswith("ws_") and len(item["id"]) <= 64 for item in found[:2])
    assert found[3]["id"] == "ws_1"


def test_an_approval_names_the_id_with_which_its_request_is_sent() -> None:
    request, approval = sent(ASK, YES)
    assert request["id"] == approval["approval_request_id"] != "mcpr_1"
    assert sent(RS, ASK, YES)[1:] == [ASK, YES]
    assert sent(YES) == [YES]


def test_a_long_call_id_is_shortened_the_same_everywhere() -> None:
    call, output, other = sent({**FC, "call_id": LONG}, {**OUT, "call_id": LONG}, {**FC, "call_id": LONG + "y"})
    assert call["call_id"] == output["call_id"] != other["call_id"]
    assert 0 < len(call["call_id"]) <= 64
    [empty, answer] = sent({**FC, "call_id": ""}, {**OUT, "call_id": ""})
    assert empty["call_id"] == answer["call_id"] != ""
    assert sent({"type": "local_shell_call_output", "id": LONG, "output": "x"})[0]["id"] == call["call_id"]


def test_an_unknown_status_becomes_incomplete() -> None:
    statuses = [item["status"] for item in sent({**MSG, "status": "failed"}, {**FC, "status": "completed"})]
    assert statuses == ["incomplete", "completed"]
    assert sent({"type": "mcp_call", "id": "mcp_1", "status": "failed"})[0]["status"] == "failed"


@pytest.mark.parametrize("dialect", list(Dialect))
def test_nulls_are_removed_except_in_a_clients_own_json(dialect: Dialect) -> None:
    schema = {"properties": {"a": {"default": None, "enum": [None]}}}
    tools = [{"name": "f", "description": None, "input_schema": schema}]
    given = [
        {**RS, "status": None, "content": None},
        {**MSG, "phase": None, "content": [{**MSG["content"][0], "annotations": None, "logprobs": None}]},
        {"type": "mcp_list_tools", "id": None, "server_label": "s", "tools": tools, "error": None},
    ]
    reasoning, message, listed = in_dialect({"model": "m", "input": given}, dialect)["input"]
    assert reasoning == RS
    assert None not in message.values()
    assert None not in message["content"][0].values()
    assert listed["tools"] == [{"name": "f", "input_schema": schema}]
    assert given[0]["status"] is None
