"""The shapes that Open Responses (2026-04-24, www.openresponses.org) requires, and a reader of streams.

Written from the specification. Objects may have more than is named here: it lets implementors add fields, and asks of
item and event types that it does not know only that they begin with the implementor's name and a colon.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import httpx
from jsonschema import Draft202012Validator

Json = dict[str, Any]

TEXT: Final[Json] = {"type": "string"}
WHOLE: Final[Json] = {"type": "integer"}
NUMBER: Final[Json] = {"type": "number"}
FLAG: Final[Json] = {"type": "boolean"}
EXTENSION: Final = "^[a-z0-9_-]+:.+"


def null_or(schema: Json) -> Json:
    return {"anyOf": [schema, {"type": "null"}]}


def one_of(*values: str) -> Json:
    return {"enum": list(values)}


def a_list(items: Json) -> Json:
    return {"type": "array", "items": items}


def an_object(required: Mapping[str, Json], optional: Mapping[str, Json] | None = None) -> Json:
    return {"type": "object", "properties": {**required, **(optional or {})}, "required": list(required)}


def by_type(known: Mapping[str, Json], otherwise: Json | None = None) -> Json:
    """Return a schema that depends on an object's `type`; `otherwise` is for an implementor's own types."""
    types = [*({"const": name} for name in known), *([{"pattern": EXTENSION}] if otherwise else [])]
    rules: list[Json] = [
        {"if": {"properties": {"type": {"const": name}}}, "then": schema} for name, schema in known.items()
    ]
    if otherwise:
        rules.append({"if": {"properties": {"type": {"pattern": EXTENSION}}}, "then": otherwise})
    return {"allOf": [an_object({"type": {**TEXT, "anyOf": types}}), *rules]}


LIFE: Final = one_of("in_progress", "completed", "incomplete")
ANNOTATION: Final = by_type(
    {"url_citation": an_object({"url": TEXT, "start_index": WHOLE, "end_index": WHOLE, "title": TEXT})}
)
TOKEN: Final[Json] = {"token": TEXT, "logprob": NUMBER, "bytes": a_list(WHOLE)}
LOGPROBS: Final = a_list(an_object({**TOKEN, "top_logprobs": a_list(an_object(TOKEN))}))
PART: Final = by_type(
    {
        "input_text": an_object({"text": TEXT}),
        "output_text": an_object({"text": TEXT, "annotations": a_list(ANNOTATION)}, {"logprobs": LOGPROBS}),
        "text": an_object({"text": TEXT}),
        "summary_text": an_object({"text": TEXT}),
        "reasoning_text": an_object({"text": TEXT}),
        "refusal": an_object({"refusal": TEXT}),
        "input_image": an_object({"image_url": null_or(TEXT), "detail": one_of("low", "high", "auto")}),
        "input_file": an_object({}, {"filename": TEXT, "file_url": TEXT}),
        "input_video": an_object({"video_url": TEXT}),
    }
)
ITEM: Final = by_type(
    {
        "message": an_object(
            {
                "id": TEXT,
                "status": LIFE,
                "role": one_of("user", "assistant", "system", "developer"),
                "content": a_list(PART),
            },
            {"phase": one_of("commentary", "final_answer")},
        ),
        "function_call": an_object({"id": TEXT, "call_id": TEXT, "name": TEXT, "arguments": TEXT, "status": LIFE}),
        "function_call_output": an_object(
            {"id": TEXT, "call_id": TEXT, "output": {"anyOf": [TEXT, a_list(PART)]}, "status": LIFE}
        ),
        "reasoning": an_object(
            {"id": TEXT, "summary": a_list(PART)}, {"content": a_list(PART), "encrypted_content": TEXT}
        ),
    },
    otherwise=an_object({"id": TEXT, "status": TEXT}),
)
TOOL: Final = by_type(
    {
        "function": an_object(
            {
                "name": TEXT,
                "description": null_or(TEXT),
                "parameters": null_or({"type": "object"}),
                "strict": null_or(FLAG),
            }
        )
    },
    otherwise={},
)
MODE: Final = one_of("none", "auto", "required")
FUNCTION_CHOICE: Final = by_type({"function": an_object({}, {"name": TEXT})})
TOOL_CHOICE: Final[Json] = {
    "if": {"type": "string"},
    "then": MODE,
    "else": by_type(
        {
            "function": an_object({}, {"name": TEXT}),
            "allowed_tools": an_object({"tools": a_list(FUNCTION_CHOICE), "mode": MODE}),
        }
    ),
}
FORMAT: Final = by_type(
    {
        "text": {},
        "json_object": {},
        "json_schema": an_object({"name": TEXT, "description": null_or(TEXT), "schema": {}, "strict": FLAG}),
    }
)
USAGE: Final = an_object(
    {
        "input_tokens": WHOLE,
        "output_tokens": WHOLE,
        "total_tokens": WHOLE,
        "input_tokens_details": an_object({"cached_tokens": WHOLE}),
        "output_tokens_details": an_object({"reasoning_tokens": WHOLE}),
    }
)
RESPONSE: Final = an_object(
    {
        "id": TEXT,
        "object": {"const": "response"},
        "created_at": WHOLE,
        "completed_at": null_or(WHOLE),
        "status": one_of("queued", "in_progress", "completed", "failed", "incomplete", "cancelled"),
        "incomplete_details": null_or(an_object({"reason": TEXT})),
        "model": TEXT,
        "previous_response_id": null_or(TEXT),
        "instructions": null_or(TEXT),
        "output": a_list(ITEM),
        "error": null_or(an_object({"code": TEXT, "message": TEXT})),
        "tools": a_list(TOOL),
        "tool_choice": TOOL_CHOICE,
        "truncation": one_of("auto", "disabled"),
        "parallel_tool_calls": FLAG,
        "text": an_object({"format": FORMAT}, {"verbosity": one_of("low", "medium", "high")}),
        "top_p": NUMBER,
        "presence_penalty": NUMBER,
        "frequency_penalty": NUMBER,
        "top_logprobs": WHOLE,
        "temperature": NUMBER,
        "reasoning": null_or(
            an_object(
                {
                    "effort": null_or(one_of("none", "minimal", "low", "medium", "high", "xhigh")),
                    "summary": null_or(one_of("concise", "detailed", "auto")),
                }
            )
        ),
        "usage": null_or(USAGE),
        "max_output_tokens": null_or(WHOLE),
        "max_tool_calls": null_or(WHOLE),
        "store": FLAG,
        "background": FLAG,
        "service_tier": TEXT,
        "metadata": {},
        "safety_identifier": null_or(TEXT),
        "prompt_cache_key": null_or(TEXT),
    }
)
"""`ResponseResource`: all 31 keys in every status."""

_SNAPSHOT: Final = an_object({"response": RESPONSE})
_AT: Final[Json] = {"item_id": TEXT, "output_index": WHOLE}
_IN_CONTENT: Final[Json] = {**_AT, "content_index": WHOLE}
_IN_SUMMARY: Final[Json] = {**_AT, "summary_index": WHOLE}
_PADDED: Final[Json] = {"obfuscation": TEXT}
ERROR: Final = an_object({"type": TEXT, "code": null_or(TEXT), "message": TEXT, "param": null_or(TEXT)})
EVENTS: Final[Mapping[str, Json]] = {
    **{
        f"response.{name}": _SNAPSHOT
        for name in ("created", "queued", "in_progress", "completed", "failed", "incomplete")
    },
    "response.output_item.added": an_object({"output_index": WHOLE, "item": null_or(ITEM)}),
    "response.output_item.done": an_object({"output_index": WHOLE, "item": null_or(ITEM)}),
    "response.content_part.added": an_object({**_IN_CONTENT, "part": PART}),
    "response.content_part.done": an_object({**_IN_CONTENT, "part": PART}),
    "response.output_text.delta": an_object({**_IN_CONTENT, "delta": TEXT}, {"logprobs": LOGPROBS, **_PADDED}),
    "response.output_text.done": an_object({**_IN_CONTENT, "text": TEXT}, {"logprobs": LOGPROBS}),
    "response.output_text.annotation.added": an_object(
        {**_IN_CONTENT, "annotation_index": WHOLE, "annotation": null_or(ANNOTATION)}
    ),
    "response.refusal.delta": an_object({**_IN_CONTENT, "delta": TEXT}),
    "response.refusal.done": an_object({**_IN_CONTENT, "refusal": TEXT}),
    "response.reasoning.delta": an_object({**_IN_CONTENT, "delta": TEXT}, _PADDED),
    "response.reasoning.done": an_object({**_IN_CONTENT, "text": TEXT}),
    "response.reasoning_summary_part.added": an_object({**_IN_SUMMARY, "part": PART}),
    "response.reasoning_summary_part.done": an_object({**_IN_SUMMARY, "part": PART}),
    "response.reasoning_summary_text.delta": an_object({**_IN_SUMMARY, "delta": TEXT}, _PADDED),
    "response.reasoning_summary_text.done": an_object({**_IN_SUMMARY, "text": TEXT}),
    "response.function_call_arguments.delta": an_object({**_AT, "delta": TEXT}, _PADDED),
    "response.function_call_arguments.done": an_object({**_AT, "arguments": TEXT}),
    "error": an_object({"error": ERROR}),
}
EVENT: Final[Json] = {"allOf": [an_object({"sequence_number": WHOLE}), by_type(EVENTS, otherwise={})]}
DONE: Final = "[DONE]"

_RESPONSE: Final = Draft202012Validator(RESPONSE)
_EVENT: Final = Draft202012Validator(EVENT)
_FAILURE: Final = Draft202012Validator(an_object({"error": ERROR}))


def _complaints(validator: Draft202012Validator, value: Any, within: str) -> list[str]:
    return [
        f"{within}{each.json_path.removeprefix('$')}: {each.message}"[:300] for each in validator.iter_errors(value)
    ]


def assert_response(value: Json, status: str | None = None) -> None:
    """Assert that a response is complete, and has this status if one is given."""
    complaints = _complaints(_RESPONSE, value, "response")
    assert not complaints, complaints
    assert status is None or value["status"] == status, value
    items = [item["id"] for item in value["output"]]
    assert len(set(items)) == len(items)
    if value["status"] != "incomplete":
        assert not [item for item in value["output"] if item.get("status") == "incomplete"]


def assert_failure(answer: httpx.Response, status: int) -> None:
    """Assert that an answer is an error of this HTTP status in the specified form."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"].startswith("application/json")
    complaints = _complaints(_FAILURE, answer.json(), "body")
    assert not complaints, complaints


@dataclass(frozen=True)
class StreamRead:
    """The events of a stream that was read to its end."""

    events: Sequence[Json]

    @property
    def types(self) -> list[str]:
        return [event["type"] for event in self.events]

    @property
    def response(self) -> Json:
        """The response in the last event."""
        final: Json = self.events[-1]["response"]
        return final

    def of(self, kind: str) -> list[Json]:
        return [event for event in self.events if event["type"] == kind]


def read_stream(answer: httpx.Response) -> StreamRead:
    """Read a stream to its end, and check the form, names and numbers of its frames and each event's shape."""
    assert answer.status_code == 200, answer.read()
    assert answer.headers["content-type"].startswith("text/event-stream")
    *frames, rest = "".join(answer.iter_text()).split("\n\n")
    frames = [each for each in frames if not each.startswith(":")]
    assert rest == ""
    assert frames[-1] == f"data: {DONE}"
    reported = []
    for each in frames[:-1]:
        fields = [line.partition(": ")[::2] for line in each.splitlines()]
        assert [name for name, _ in fields] == ["event", "data"]
        event: Json = json.loads(fields[1][1])
        assert event["type"] == fields[0][1]
        reported.append(event)
    complaints = [each for event in reported for each in _complaints(_EVENT, event, event["type"])]
    assert not complaints, complaints
    assert [event["sequence_number"] for event in reported] == list(range(len(reported)))
    return StreamRead(reported)


def assert_items_are_complete(reported: StreamRead) -> None:
    """Assert that every item is added, gets its text in deltas, is done, and then stands in the response."""
    output = reported.response["output"]
    done = [event["item"] for event in reported.of("response.output_item.done")]
    assert done == output
    for index, item in enumerate(output):
        of_item = [event for event in reported.events if event.get("output_index") == index]
        first, last = of_item[0], of_item[-1]
        assert (first["type"], last["type"]) == ("response.output_item.added", "response.output_item.done")
        assert first["item"]["id"] == item["id"]
        assert {event["item_id"] for event in of_item[1:-1]} <= {item["id"]}
        if item["type"] == "message":
            assert (first["item"]["status"], first["item"]["role"]) == ("in_progress", item["role"])
            for number, part in enumerate(item["content"]):
                _assert_part([each for each in of_item[1:-1] if each["content_index"] == number], part)
        elif item["type"] == "function_call":
            assert (first["item"]["status"], first["item"]["name"]) == ("in_progress", item["name"])
            _assert_text(of_item[1:-1], "response.function_call_arguments", "arguments", item["arguments"])


def _assert_part(events: Sequence[Json], part: Json) -> None:
    added, *within, done = events
    assert (added["type"], done["type"]) == ("response.content_part.added", "response.content_part.done")
    assert done["part"] == part
    field = "refusal" if part["type"] == "refusal" else "text"
    assert added["part"][field] == ""
    kind = "response.refusal" if part["type"] == "refusal" else f"response.{part['type']}"
    _assert_text([each for each in within if "annotation" not in each], kind, field, part[field])


def _assert_text(events: Iterable[Json], kind: str, field: str, text: str) -> None:
    *deltas, done = events
    assert {each["type"] for each in deltas} <= {f"{kind}.delta"}
    assert (done["type"], done[field]) == (f"{kind}.done", text)
    assert "".join(each["delta"] for each in deltas) == text
    assert bool(deltas) == bool(text)
