"""Every item of our `output` is accepted as input, by the API and by each kind of provider."""

import inspect
import json
from collections.abc import Mapping
from typing import Any, Final, get_args, get_origin

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai.types.responses import ResponseOutputItem
from openai.types.responses.response_input_item_param import ResponseInputItemParam
from pydantic import TypeAdapter

from api.request.body import parse_request
from jobs.conversation import kind_of, of_use
from jobs.encoding import from_json, to_text
from jobs.job import Truncation
from jobs.settings import Dialect
from simulator.rules import IssuedItems, Rules, check_body
from worker.provider.output import normalise_output
from worker.provider.request import build_body
from worker.provider.request_dialect import in_dialect

Json = dict[str, Any]
Schema = Mapping[str, Any]

MODEL: Final = "openai/o3-pro"
STATUSES: Final = st.sampled_from(["completed", "incomplete", "in_progress", "failed", "searching", "calling", None])
ONLY_ASKED: Final = frozenset({"compaction_trigger", "configuration_update", "item_reference"})
"""Kinds that only clients send: they ask for something, and are never shown."""


def members(union: Any) -> dict[str, Any]:
    """The JSON schemas of the SDK's kinds of items, by name."""
    found = {}
    for each in get_args(get_args(union)[0] if get_origin(get_args(union)[0]) else union):
        if inspect.isclass(each):
            found[each.__name__] = TypeAdapter(each).json_schema()
    return found


OUTPUT_ITEMS: Final = members(ResponseOutputItem)
INPUT_ITEMS: Final = members(ResponseInputItemParam)


def values_of(schema: Schema, definitions: Mapping[str, Schema]) -> st.SearchStrategy[Any]:
    """Any value of a schema as pydantic writes it. Each field that may be left out or null is so now and then."""
    if "$ref" in schema:
        return st.deferred(lambda: values_of(definitions[schema["$ref"].rpartition("/")[2]], definitions))
    if "anyOf" in schema or "oneOf" in schema:
        branches = [*schema.get("anyOf", ()), *schema.get("oneOf", ())]
        return st.one_of([values_of(branch, definitions) for branch in branches])
    if "const" in schema or "enum" in schema:
        return st.sampled_from(schema.get("enum", [schema.get("const")]))
    match schema.get("type"):
        case "string":
            return st.sampled_from(["", "text", "id_1", "x" * 70, "{}", "\N{RAT}"])
        case "integer":
            return st.sampled_from([0, 1, -1, 2**31, 2**53 + 1])
        case "number":
            return st.sampled_from([0, 0.5, -0.1, 1e300])
        case "boolean":
            return st.booleans()
        case "null":
            return st.none()
        case "array":
            return st.lists(values_of(schema.get("items", {}), definitions), max_size=2)
        case "object":
            return objects_of(schema, definitions)
    return st.sampled_from(["text", 1, {"a": [None]}, []])


def objects_of(schema: Schema, definitions: Mapping[str, Schema]) -> st.SearchStrategy[Json]:
    fields = {name: values_of(field, definitions) for name, field in schema.get("properties", {}).items()}
    needed = {name: each for name, each in fields.items() if name in schema.get("required", ())}
    others = {name: each for name, each in fields.items() if name not in needed}
    return st.fixed_dictionaries(needed, optional=others)


@st.composite
def shown_items(draw: st.DrawFn, schema: Schema) -> Json:
    """An item as a provider may send it, and we show it: any status, with or without its id."""
    item = draw(values_of(schema, schema.get("$defs", {})))
    if draw(st.booleans()):
        item["status"] = draw(STATUSES)
    if draw(st.booleans()) and item["type"] != "local_shell_call_output":  # whose id is the call's
        item.pop("id", None)
    [shown] = normalise_output([item], None, finished="completed", seed=lambda: "5eed")
    return shown


def answers_to(item: Json) -> list[Json]:
    """The output that the client owes to a call, for a provider refuses a call without one."""
    kind, call_id = kind_of(item), item.get("call_id")
    if kind in ("function_call", "custom_tool_call"):
        return [{"type": f"{kind}_output", "call_id": call_id, "output": "x"}]
    if kind == "computer_call":
        screenshot = {"type": "computer_screenshot", "image_url": "data:image/png;base64,iVBORw0KGgo="}
        return [{"type": "computer_call_output", "call_id": call_id, "output": screenshot}]
    return []


MADE_OF: Final[Json] = {"name": "f", "input": "", "action": {}, "operation": {}}


def calls_before(item: Json) -> list[Json]:
    """The call that an output answers."""
    kind, call_id = item.get("type") or "", item.get("call_id")
    if kind == "function_call_output":
        return [{"type": "function_call", "call_id": call_id, "name": "f", "arguments": "{}"}]
    if kind.endswith("_call_output") and isinstance(call_id, str):
        return [{"type": kind.removesuffix("_output"), "call_id": call_id, "id": "x_1", **MADE_OF}]
    return []


PROVIDERS: Final[tuple[tuple[Dialect, Rules], ...]] = (
    (Dialect.STRICT, "strict"),
    (Dialect.STRICT, "lenient"),
    (Dialect.STRICT, "openai"),
    (Dialect.OPENAI, "lenient"),
    (Dialect.OPENAI, "openai"),
)


def assert_taken(item: Json, providers: tuple[tuple[Dialect, Rules], ...] = PROVIDERS) -> None:
    """The API takes it, and so does each provider, between what belongs to it. An output without a call is nobody's."""
    if item.get("type") == "function_call_output" and item.get("call_id") is None:
        item["call_id"] = "call_1"
    if item.get("type") == "function_call_output" and "input_" in str(item["output"]):
        providers = tuple(each for each in providers if each[1] != "strict")  # it has no form for pictures and files
    question = {"role": "user", "content": "Hello"}
    body = {"model": MODEL, "input": [question, *calls_before(item), item, *answers_to(item), question]}
    parsed = parse_request(json.dumps(body).encode()).body
    issued = IssuedItems()
    issued.remember([{"id": "rs_1", **each} for each in parsed["input"] if each.get("type") == "reasoning"])
    for dialect, rules in providers:
        kept = build_body(parsed, of_use(parsed["input"]), model_id=MODEL, truncation=Truncation.DISABLED)
        check_body(from_json(to_text(in_dialect(kept, dialect))), rules, issued)


@pytest.mark.parametrize("name", OUTPUT_ITEMS)
@settings(deadline=None, max_examples=6, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_whatever_an_output_shows(name: str, data: st.DataObject) -> None:
    assert_taken(data.draw(shown_items(OUTPUT_ITEMS[name])))


@pytest.mark.parametrize("name", INPUT_ITEMS)
@settings(deadline=None, max_examples=6, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_whatever_the_sdk_lets_clients_send(name: str, data: st.DataObject) -> None:
    schema = INPUT_ITEMS[name]
    item = data.draw(values_of(schema, schema.get("$defs", {})))
    if kind_of(item) == "item_reference":
        parse_request(json.dumps({"model": MODEL, "input": [item]}).encode())  # put in before it is sent
    else:
        is_shown = item.get("type") not in ONLY_ASKED
        assert_taken(item, PROVIDERS if is_shown else tuple(each for each in PROVIDERS if each[1] != "strict"))


TEXT: Final[Json] = {"type": "output_text", "text": "b"}


@pytest.mark.parametrize(
    "item",
    [
        {"type": "message", "role": "assistant", "status": "failed", "content": [TEXT]},
        {"role": "assistant", "content": [{**TEXT, "annotations": [{"type": "url_citation", "url": "https://a"}]}]},
        {"role": "assistant", "content": [{**TEXT, "logprobs": [{"token": "b", "bytes": None, "logprob": -1}]}]},
        {"type": "web_search_call", "status": "failed", "action": {"type": "search", "query": "x"}},
        {"type": "mcp_call", "server_label": "s", "name": "f", "arguments": "{}", "error": {"code": 1}},
        {"type": "image_generation_call", "id": "ig_1", "status": "failed", "result": None},
        {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{", "status": "failed"},
        {"type": "future_call", "id": "ftr_1", "status": "failed", "payload": None},
    ],
    ids=lambda item: f"{item.get('type', 'message')} {item.get('status', '')}",
)
def test_what_was_refused_before_issue_26(item: Json) -> None:
    """[26]"""
    is_known = item.get("type") != "future_call"  # which the next turn is not given where the form is strict
    assert_taken(item, tuple(each for each in PROVIDERS if is_known or each[1] != "strict"))
