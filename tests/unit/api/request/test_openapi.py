"""The OpenAPI page describes the request body correctly and completely."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from jsonschema import Draft202012Validator

from api.request.body import CreateResponse, parse_request
from api.request.openapi import request_body, request_schema
from jobs.errors import RequestInvalid
from jobs.request_fields import OWN_FIELDS

EXAMPLES = request_body()["content"]["application/json"]["examples"]
VALIDATOR = Draft202012Validator(request_schema())
HELLO = {"model": "m", "input": "x"}


def branches(node: Any) -> Iterator[Any]:
    yield node
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from branches(child)


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_example_is_a_good_request(name: str) -> None:
    value = EXAMPLES[name]["value"]
    VALIDATOR.validate(value)
    assert parse_request(json.dumps(value).encode()).body == value


def test_every_field_is_in_the_schema_and_each_of_ours_has_a_description() -> None:
    schema = request_schema()
    assert list(schema["properties"]) == list(CreateResponse.model_fields)
    assert schema["required"] == ["model"]
    for name in OWN_FIELDS:
        assert schema["properties"][name]["description"].startswith("Backburner's own: ")


def test_the_schema_has_no_outside_references() -> None:
    Draft202012Validator.check_schema(request_schema())
    assert not any(isinstance(node, dict) and "$ref" in node for node in branches(request_schema()))


def test_fastapi_shows_it() -> None:
    app = FastAPI()

    @app.post("/v1/responses", openapi_extra={"requestBody": request_body()})
    def create() -> None:
        """Submit a job."""

    shown = app.openapi()["paths"]["/v1/responses"]["post"]["requestBody"]["content"]["application/json"]
    assert shown["schema"]["properties"]["webhook"] == request_schema()["properties"]["webhook"]
    assert shown["examples"]["text"]["value"] == {"model": "openai/o3-pro", "input": "Hello"}


@pytest.mark.parametrize(
    "fields",
    [
        {"model": None},
        {"input": 5},
        {"input": [{"role": "user", "content": 5}]},
        {"input": [{"type": 5}]},
        {"max_output_tokens": 15},
        {"metadata": {str(n): "" for n in range(17)}},
        {"metadata": {"k": "v" * 513}},
        {"tools": [{"name": "f"}]},
        {"tool_choice": 5},
        {"text": {"format": {"name": "n"}}},
        {"webhook": {"url": "https://example.com", "event": []}},
        {"webhook": {"url": "https://example.com", "events": []}},
        {"priority": 10},
        {"deadline_seconds": 0},
        {"parallel_tool_calls": "yes"},
    ],
)
def test_what_the_schema_forbids_is_refused(fields: dict[str, Any]) -> None:
    assert not VALIDATOR.is_valid({**HELLO, **fields})
    with pytest.raises(RequestInvalid):
        parse_request(json.dumps({**HELLO, **fields}).encode())
