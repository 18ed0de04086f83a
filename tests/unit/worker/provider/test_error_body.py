"""Errors in the provider's words, from every shape of body."""

import json
from typing import Any

import pytest

from worker.provider.error_body import ProviderError, read_error_body

UPSTREAM = {
    "type": "error",
    "error": {"type": "invalid_request_error", "code": "invalid_value", "message": "No.", "param": "tools[0]"},
}
INVALID_VALUE = ProviderError("No.", "invalid_value", "invalid_request_error", "tools[0]")


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (
            {"message": "Too Many Requests", "path": "/v1/responses", "requestId": "r1", "statusCode": "429"},
            ProviderError("Too Many Requests", request_id="r1"),
        ),
        ({"message": f"400 {json.dumps(UPSTREAM)}", "statusCode": 400}, INVALID_VALUE),
        (
            {"message": ["a must be a string", "b is missing"], "error": "Bad Request"},
            ProviderError("a must be a string; b is missing"),
        ),
        ({"error": UPSTREAM["error"]}, INVALID_VALUE),
        ({"error": "just words"}, ProviderError("just words")),
        ({"detail": "Not Found"}, ProviderError("Not Found")),
        ({"detail": [{"loc": ["body"], "msg": "field required", "type": "missing"}]}, ProviderError("field required")),
        (
            {"error": {"message": "Provider returned error", "code": 400, "metadata": {"raw": json.dumps(UPSTREAM)}}},
            ProviderError("No.", "invalid_value", "invalid_request_error", "tools[0]", status=400),
        ),
        ({"error": {"message": "Rate limited", "code": 429}}, ProviderError("Rate limited", status=429)),
        ({"error": {"message": "Odd", "code": 12, "type": 5, "param": {}}}, ProviderError("Odd")),
        ({"message": "Got {not json} in here"}, ProviderError("Got {not json} in here")),
        ({"message": 'Value {"a": 1} is wrong'}, ProviderError('Value {"a": 1} is wrong')),
        ({"error": None, "message": None}, ProviderError()),
        ({}, ProviderError()),
        ([], ProviderError()),
        ("a bare string", ProviderError("a bare string")),
        (7, ProviderError()),
    ],
)
def test_json(body: Any, error: ProviderError) -> None:
    assert read_error_body(json.dumps(body).encode()) == error


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", ""),
        (b"upstream connect error", "upstream connect error"),
        (b'\xef\xbb\xbf{"message": "with a byte order mark"}', "with a byte order mark"),
        (b"caf\xe9", "caf\ufffd"),
        (b"<html><head><title>502 Bad Gateway</title></head></html>", "502 Bad Gateway"),
        (b'{"message": "cut o', '{"message": "cut o'),
        (b"[" * 100_000, "[" * 1999 + "…"),
    ],
)
def test_anything_else(body: bytes, message: str) -> None:
    assert read_error_body(body) == ProviderError(message)


def test_nested_errors_have_a_depth_limit() -> None:
    nested: dict[str, Any] = {"message": "the cause"}
    for _ in range(50):
        nested = {"error": nested, "message": "outer"}
    assert read_error_body(json.dumps(nested).encode()).message == "outer"
