"""Every item, tool, tool choice, include and effort of the official SDK is accepted."""

import json
from collections.abc import Iterator
from typing import Any, get_args, get_origin, get_type_hints

import pytest
from openai.types.responses.response_create_params import ResponseCreateParamsBase, ToolChoice
from openai.types.responses.response_input_item_param import ResponseInputItemParam
from openai.types.responses.tool_param import ToolParam

from api.request.body import CreateResponse, parse_request
from jobs.errors import RequestInvalid

HELLO = {"model": "m", "input": "x"}


def texts(annotation: Any) -> Iterator[str]:
    """Yield the literal strings in an annotation."""
    if isinstance(annotation, str):
        yield annotation
    for argument in get_args(annotation):
        yield from texts(argument)


def kinds(union: Any) -> list[str]:
    """List the `type`s of a union of the SDK's objects."""
    objects = [member for member in get_args(union) if get_origin(member) is None and isinstance(member, type)]
    return sorted({kind for member in objects for kind in texts(get_type_hints(member)["type"])})


def is_a_known_kind(body: dict[str, Any], param: str) -> bool:
    """Return whether the `type` is accepted. Other fields of such a bare object may be missing."""
    try:
        parse_request(json.dumps(body).encode())
    except RequestInvalid as error:
        return error.param != param
    return True


@pytest.mark.parametrize("kind", kinds(ResponseInputItemParam))
def test_every_item_of_the_sdk_is_known(kind: str) -> None:
    assert is_a_known_kind({**HELLO, "input": [{"type": kind}]}, "input[0].type")


@pytest.mark.parametrize("kind", kinds(ToolParam))
def test_every_tool_of_the_sdk_is_known(kind: str) -> None:
    assert is_a_known_kind({**HELLO, "tools": [{"type": kind}]}, "tools[0].type")


@pytest.mark.parametrize("kind", kinds(ToolChoice))
def test_every_tool_choice_of_the_sdk_is_known(kind: str) -> None:
    assert is_a_known_kind({**HELLO, "tool_choice": {"type": kind}}, "tool_choice.type")


def test_every_openai_field_of_ours_is_the_sdks() -> None:
    ours = {name for name, field in CreateResponse.model_fields.items() if "own:" not in (field.description or "")}
    assert ours - {"webhook"} <= set(get_type_hints(ResponseCreateParamsBase)) | {"stream"}
