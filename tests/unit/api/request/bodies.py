"""Request bodies for tests, and the error that a wrong one gets."""

import json
from typing import Any

import pytest

from api.request.body import ParsedRequest, parse_request
from jobs.errors import RequestInvalid
from jobs.request_fields import WITHHELD_FIELDS

HELLO = {"model": "openai/o3-pro", "input": "Hello"}
FUNCTION = {"type": "function", "name": "f", "parameters": {}, "strict": True}
MCP = {"type": "mcp", "server_label": "docs", "server_url": "https://example.com/mcp"}
OUTPUT_TEXT = {"type": "output_text", "text": "Hi", "annotations": []}
ANSWER = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [OUTPUT_TEXT]}


def body(**fields: Any) -> dict[str, Any]:
    return {**HELLO, **fields}


def item(**fields: Any) -> dict[str, Any]:
    return body(input=[fields])


def user(*parts: Any) -> dict[str, Any]:
    return item(role="user", content=list(parts))


def assistant(part: dict[str, Any]) -> dict[str, Any]:
    return body(input=[{**ANSWER, "content": [part]}])


def encode(value: object) -> bytes:
    return json.dumps(value).encode()


def refusal(value: object) -> RequestInvalid:
    with pytest.raises(RequestInvalid) as caught:
        parse_request(encode(value))
    return caught.value


def sent_on(parsed: ParsedRequest) -> dict[str, Any]:
    return {name: value for name, value in parsed.body.items() if name not in WITHHELD_FIELDS}
