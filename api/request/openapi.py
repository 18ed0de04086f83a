"""The request body on the OpenAPI page: the models that check it, as one schema without references.

The route parses its body itself, as FastAPI's parser accepts NaN and duplicate keys and has errors of another shape. So
the schema is passed to FastAPI in `openapi_extra`, which cannot have shared components.
"""

from functools import cache
from typing import Any, Final

from api.request.body import CreateResponse

_EXAMPLES: Final[dict[str, dict[str, Any]]] = {
    "text": {"summary": "A text, answered on this connection", "value": {"model": "openai/o3-pro", "input": "Hello"}},
    "background": {
        "summary": "A background response with a webhook and a deadline",
        "value": {
            "model": "openai/o3-pro",
            "input": [
                {"role": "developer", "content": "Answer with a proof."},
                {"role": "user", "content": [{"type": "input_text", "text": "Are there infinitely many primes?"}]},
            ],
            "background": True,
            "reasoning": {"effort": "high"},
            "max_output_tokens": 20000,
            "metadata": {"ticket": "4711"},
            "webhook": {"url": "https://example.com/hooks/backburner", "events": ["response.completed"]},
            "deadline_seconds": 7200,
            "max_attempts": 3,
            "on_unknown_outcome": "fail",
            "priority": 7,
        },
    },
    "structured": {
        "summary": "JSON that matches a schema, and a function to call",
        "value": {
            "model": "openai/o3-pro",
            "input": "What should I wear in Lisbon today?",
            "tools": [
                {
                    "type": "function",
                    "name": "weather",
                    "description": "Today's weather in a city",
                    "parameters": {
                        "type": "object",
                        "properties": {"city": {"type": "string"}},
                        "required": ["city"],
                        "additionalProperties": False,
                    },
                    "strict": True,
                }
            ],
            "text": {
                "format": {
                    "type": "json_schema",
                    "name": "outfit",
                    "schema": {
                        "type": "object",
                        "properties": {"items": {"type": "array", "items": {"type": "string"}}},
                        "required": ["items"],
                        "additionalProperties": False,
                    },
                    "strict": True,
                }
            },
            "background": True,
        },
    },
    "follow_up": {
        "summary": "A follow-up to a response that may still be running",
        "value": {
            "model": "openai/o3-pro",
            "input": "And in the evening?",
            "previous_response_id": "resp_0198c0a2b4c87d2e9f31a6d5b7e4c801",
        },
    },
}


@cache
def request_schema() -> dict[str, Any]:
    """Return the JSON Schema of the body, without references. The caller must not change it."""
    schema = CreateResponse.model_json_schema()
    definitions = schema.pop("$defs")
    plain: dict[str, Any] = _plain(schema, definitions)
    return {**plain, "title": "CreateResponse"}


def request_body() -> dict[str, Any]:
    """Return OpenAPI's `requestBody`, for a route's `openapi_extra`."""
    return {"required": True, "content": {"application/json": {"schema": request_schema(), "examples": _EXAMPLES}}}


def count_body() -> dict[str, Any]:
    """Return the `requestBody` of a token count: that of a create, with all fields optional."""
    schema = {key: value for key, value in request_schema().items() if key != "required"}
    return {"required": True, "content": {"application/json": {"schema": {**schema, "title": "CountInputTokens"}}}}


def _plain(node: Any, definitions: dict[str, Any]) -> Any:
    if isinstance(node, list):
        return [_plain(element, definitions) for element in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        name = node["$ref"].removeprefix("#/$defs/")
        return _plain(
            {**definitions[name], **{key: value for key, value in node.items() if key != "$ref"}}, definitions
        )
    found: dict[str, Any] = {}
    for key, value in node.items():
        if key == "properties":
            found[key] = {name: _plain(field, definitions) for name, field in value.items()}
        elif key == "oneOf":
            # A discriminator decides our unions; a value may fit a second branch by chance.
            found["anyOf"] = _plain(value, definitions)
        elif key not in ("title", "default"):
            # A title only repeats the field's name; every default is null, which anyOf shows.
            found[key] = _plain(value, definitions)
    return found
