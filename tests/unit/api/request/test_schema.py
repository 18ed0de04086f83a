"""All values that the provider's own schema allows are accepted. Only values that it forbids are refused.

The file is the one that the simulator's strict rules go by. Every body here is made from it, so a newer copy of it is
tested as it stands.
"""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from jsonschema import Draft202012Validator

from api.request.body import CreateResponse, ParsedRequest, parse_request
from jobs.errors import RequestInvalid
from jobs.request_fields import WITHHELD_FIELDS
from simulator.rules.strict import as_json_schema, request_schema

Schema = dict[str, Any]
Steps = tuple[str | int, ...]


def sent_on(parsed: ParsedRequest) -> dict[str, Any]:
    return {name: value for name, value in parsed.body.items() if name not in WITHHELD_FIELDS}


DATA: Final = Path(__file__).parents[3] / "data"
SCHEMA: Final[Schema] = dict(request_schema())
FIELDS: Final = tuple(SCHEMA["properties"])
CODES: Final = ("invalid_type", "invalid_value", "missing_required_parameter", "integer_below_min_value")
WRONG: Final[tuple[Any, ...]] = (None, True, 7, 7.5, "\N{SNOWMAN}", [], [7], {}, {"\N{SNOWMAN}": 7})


def instances(schema: Schema) -> Iterator[Any]:
    """Yield values that together use every field, every branch and every enumerated value of the schema."""
    if schema.get("nullable"):
        yield None
    for branch in (*schema.get("anyOf", ()), *schema.get("oneOf", ())):
        yield from instances(branch)
    if "enum" in schema:
        yield from schema["enum"]
        return
    match schema.get("type"):
        case "string":
            yield "text"
        case "integer":
            yield schema.get("minimum", 1)
        case "number":
            yield from (0.5, 2)
        case "boolean":
            yield from (True, False)
        case "array":
            yield []
            yield from ([element] for element in instances(schema["items"]))
        case "object":
            yield from objects(schema)


def objects(schema: Schema) -> Iterator[dict[str, Any]]:
    properties = {name: list(instances(field)) for name, field in schema.get("properties", {}).items()}
    least = {name: properties[name][-1] for name in schema.get("required", ())}
    yield least
    yield {name: values[-1] for name, values in properties.items()}
    for name, values in properties.items():
        for value in values:
            yield {**least, name: value}
    further = schema.get("additionalProperties")
    if further:
        yield from ({**least, "key": value} for value in instances(further))


VALIDATORS: Final = {name: Draft202012Validator(as_json_schema(field)) for name, field in SCHEMA["properties"].items()}


def nodes(value: Any, path: Steps = ()) -> Iterator[tuple[Steps, Any]]:
    yield path, value
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from nodes(child, (*path, key))


def changed(value: Any, path: Steps, new: Any) -> Any:
    if not path:
        return new
    value = copy.copy(value)
    value[path[0]] = changed(value[path[0]], path[1:], new)
    return value


def body(field: str, value: Any) -> dict[str, Any]:
    return {"model": "openai/o3-pro", "input": "Hello", field: value}


def written(path: Steps) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).removeprefix(".")


def outcome(field: str, value: Any) -> RequestInvalid | None:
    sent = body(field, value)
    try:
        parsed = parse_request(json.dumps(sent).encode())
    except RequestInvalid as error:
        return error
    assert parsed.body == sent
    return None


def test_the_providers_own_sample_is_accepted() -> None:
    sample = (DATA / "sample-request.json").read_bytes()
    assert sent_on(parse_request(sample)) == {"model": "openai/o3-pro", "input": "Hello"}


def test_every_field_of_the_provider_is_one_of_ours() -> None:
    assert set(FIELDS) <= set(CreateResponse.model_fields)
    required = {name for name, field in CreateResponse.model_fields.items() if field.is_required()}
    assert required == {"model"}  # a stored prompt or an earlier response may replace the input


@pytest.mark.parametrize("field", FIELDS)
def test_every_value_that_the_schema_allows_is_accepted_unchanged(field: str) -> None:
    values = list(instances(SCHEMA["properties"][field]))
    assert values
    for value in values:
        VALIDATORS[field].validate(value)  # checks the generator above
        if field == "input" and not value:
            continue  # valid for the schema, but an empty request
        assert outcome(field, value) is None


@pytest.mark.parametrize("form", range(12))
def test_each_of_the_twelve_item_forms_is_accepted(form: int) -> None:
    forms = SCHEMA["properties"]["input"]["anyOf"][1]["items"]["anyOf"]
    assert len(forms) == 12
    for value in instances(forms[form]):
        assert outcome("input", [value]) is None


@pytest.mark.parametrize("field", FIELDS)
def test_only_a_wrong_type_is_refused_and_its_field_is_named(field: str) -> None:
    refused = 0
    for value in instances(SCHEMA["properties"][field]):
        for path, _ in nodes(value):
            for wrong in WRONG:
                bad = changed(value, path, wrong)
                error = outcome(field, bad)
                if error is None:
                    continue
                # The loosest form of a message defines neither status nor id, so it accepts any value there.
                assert not VALIDATORS[field].is_valid(bad) or path[-1:] in (("status",), ("id",)) or not bad
                # An item with an id and without a type is checked as a reference.
                place = path[:-1] if wrong is None and path[-1:] == ("type",) else path
                assert error.param is not None
                assert error.param.startswith(written((field, *place)))
                assert error.code in CODES
                refused += 1
    assert refused >= 3


@pytest.mark.parametrize("field", FIELDS)
def test_a_missing_required_field_is_named(field: str) -> None:
    for value in instances(SCHEMA["properties"][field]):
        for path, node in nodes(value):
            for name in node if isinstance(node, dict) else ():
                bad = changed(value, path, {key: node[key] for key in node if key != name})
                error = outcome(field, bad)
                if error is None:
                    continue
                assert not VALIDATORS[field].is_valid(bad)
                # Without the field that identifies the kind of a message, another field may be reported as missing.
                assert error.param is not None
                assert error.param.startswith(written((field, *path)))
                assert error.code in CODES


@pytest.mark.parametrize("field", FIELDS)
def test_unknown_fields_are_kept(field: str) -> None:
    for value in instances(SCHEMA["properties"][field]):
        for path, node in nodes(value):
            if isinstance(node, dict):
                assert outcome(field, changed(value, path, {**node, "later": "x"})) is None
