"""The strict rules: exactly AI/ML API's documented schema, `simulator/request.schema.json`.

Only the list of models is left out: an option sets which ones answer.
"""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from itertools import groupby
from typing import Any, Final

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError, relevance

from simulator.rules.messages import BodyInvalid, invalid, missing, unrecognized

_DISCRIMINATORS: Final = (["type"], ["role"])


@cache
def request_schema() -> Mapping[str, Any]:
    """Return the provider's own schema of a request body, in OpenAPI 3.0's dialect."""
    schema: dict[str, Any] = json.loads(resources.files("simulator").joinpath("request.schema.json").read_bytes())
    return schema


def as_json_schema(schema: Any) -> Any:
    """Convert OpenAPI 3.0's `nullable` to JSON Schema.

    A schema of `nullable` alone means null in a union, and any value as additional properties.
    """
    if isinstance(schema, list):
        return [as_json_schema(element) for element in schema]
    if not isinstance(schema, dict):
        return schema
    plain = {
        key: (key == "additionalProperties" and value == {"nullable": True}) or as_json_schema(value)
        for key, value in schema.items()
        if key != "nullable"
    }
    if schema.get("nullable") is not True:
        return plain
    return {"anyOf": [{"type": "null"}, plain]} if plain else {"type": "null"}


def check_strictly(body: Mapping[str, Any]) -> None:
    """Check a body against the provider's schema.

    Raises:
        BodyInvalid: it breaks the schema.
    """
    errors = list(_validator().iter_errors(body))
    if errors:
        raise _as_invalid(_innermost(max(errors, key=relevance)))


@cache
def _validator() -> Draft202012Validator:
    schema = as_json_schema(request_schema())
    del schema["properties"]["model"]["enum"]
    return Draft202012Validator(schema)


def _innermost(error: ValidationError) -> ValidationError:
    """Return the error in the branch that the value was meant for: by its type or role, else the closest one."""
    branches = [list(found) for _, found in groupby(error.context or (), lambda inner: inner.schema_path[0])]
    meant = [found for found in branches if not any(map(_is_of_other_form, found))]
    nearest = sorted(
        ((len(found), _innermost(max(found, key=relevance))) for found in meant),
        key=lambda fit: (fit[0], -len(fit[1].absolute_path)),
    )
    return nearest[0][1] if nearest else error


def _is_of_other_form(error: ValidationError) -> bool:
    path = list(error.path)
    if error.validator == "required":
        return not path and error.message.startswith("'type' ")
    return path in _DISCRIMINATORS or (not path and error.validator == "type")


def _as_invalid(error: ValidationError) -> BodyInvalid:
    path = _written(list(error.absolute_path))
    schema: Mapping[str, Any] = error.schema if isinstance(error.schema, Mapping) else {}
    instance: Any = error.instance
    if error.validator == "required":
        name = next(name for name in schema["required"] if name not in instance)
        return missing(f"{path}.{name}".lstrip("."), _expected(schema.get("properties", {}).get(name, {})))
    if error.validator == "additionalProperties":
        names = instance.keys() - schema.get("properties", {}).keys()
        return unrecognized(path, ", ".join(f"'{name}'" for name in sorted(names)))
    return invalid(path, _expected(schema), instance)


def _written(path: Sequence[str | int]) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).lstrip(".")


def _expected(schema: Mapping[str, Any]) -> str:
    """Return a short description of the values that a schema allows."""
    if "enum" in schema:
        return " | ".join(f"'{value}'" for value in schema["enum"])
    branches = schema.get("anyOf") or schema.get("oneOf")
    if branches:
        return " | ".join(dict.fromkeys(map(_expected, branches)))
    kind = schema.get("properties", {}).get("type")
    if kind is not None:
        return _expected(kind)
    minimum = f" greater than or equal to {schema['minimum']}" if "minimum" in schema else ""
    return f"{schema.get('type', 'a value')}{minimum}"
