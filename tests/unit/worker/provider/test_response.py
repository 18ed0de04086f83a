"""The provider's response objects, as they are really sent."""

import json
from pathlib import Path
from typing import Any

import pytest

from jobs.lifecycle import Status
from worker.provider.error_body import ProviderError
from worker.provider.response import TruncatedStream, Unreadable, read_response

DATA = Path(__file__).parents[3] / "data"


def sample(number: int) -> bytes:
    return (DATA / f"sample-answer-{number}.json").read_bytes()


def encoded(**fields: Any) -> bytes:
    return json.dumps({"object": "response", "output_text": "Hi", **fields}).encode()


def test_the_first_documented_sample() -> None:
    """`output` and the usage details are null. The text is only in `output_text`."""
    parsed = read_response(sample(1))
    assert parsed.status is Status.COMPLETED
    (item,) = parsed.fields["output"]
    assert item.pop("id").startswith("msg_")
    assert item == {
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": [
            {"type": "output_text", "text": "Hi! How\u2019s your day going?", "annotations": [], "logprobs": []}
        ],
    }
    assert parsed.fields["usage"] == {
        "input_tokens": 137,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": 914,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 1051,
    }
    assert parsed.fields["parallel_tool_calls"] is False
    assert parsed.fields["text"] == {"format": {"type": "text"}}
    assert parsed.brings_output
    assert parsed.model == "openai/o3-pro"


def test_the_second_documented_sample() -> None:
    """There is no status, and the finished message has the status in_progress."""
    parsed = read_response(sample(2))
    assert parsed.status is Status.COMPLETED
    reasoning, message = parsed.fields["output"]
    assert reasoning["type"] == "reasoning"
    assert message["status"] == "completed"
    assert message["content"][0]["text"] == "Hello! How can I help you today?"
    assert parsed.model == "o3-pro-2025-06-10"
    assert parsed.id == "resp_686ba45ce63481a2a4b1fad55d2bea8102a1cc22f1a1bcf1"
    assert parsed.fields["max_output_tokens"] == 512


@pytest.mark.parametrize("number", [1, 2])
def test_fields_of_this_server_are_not_read_from_the_provider(number: int) -> None:
    fields = read_response(sample(number)).fields
    ours = {"id", "object", "created_at", "status", "model", "metadata", "background", "previous_response_id"}
    also_ours = {"output_text", "error", "incomplete_details", "store", "meta", "completed_at", "backburner"}
    assert not fields.keys() & (ours | also_ours)
    assert None not in fields.values()


def test_unknown_fields_are_kept() -> None:
    fields = read_response(encoded(moderation={"flagged": False}, tools=[{"type": "future"}], prompt=None)).fields
    assert fields["moderation"] == {"flagged": False}
    assert fields["tools"] == [{"type": "future"}]
    assert "prompt" not in fields


def test_events_in_place_of_json_are_read_as_events() -> None:
    item = {"type": "message", "id": "msg_1", "content": "Hi"}
    done = b"data: " + json.dumps({"type": "response.output_item.done", "item": item}).encode() + b"\n\n"
    parsed = read_response(done)
    assert (parsed.status, parsed.brings_output, parsed.usage.tokens) == (Status.COMPLETED, True, None)
    with pytest.raises(TruncatedStream, match="ended before its last event"):
        read_response(done, is_broken=True)


def test_made_ids_are_the_same_every_time() -> None:
    body = encoded(id="resp_1")
    assert read_response(body).fields == read_response(body).fields
    other = read_response(encoded(id="resp_2"))
    assert read_response(body).fields["output"][0]["id"] != other.fields["output"][0]["id"]


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        *(({"status": status.value}, status) for status in Status),
        ({"status": None}, Status.COMPLETED),
        ({"status": "succeeded"}, Status.COMPLETED),
        ({"status": None, "error": {"code": "server_error", "message": "Oh."}}, Status.FAILED),
        ({"status": None, "error": {"code": None, "message": None}}, Status.COMPLETED),
        ({"status": None, "incomplete_details": {"reason": "content_filter"}}, Status.INCOMPLETE),
        ({"status": None, "incomplete_details": {"reason": None}}, Status.COMPLETED),
        ({"status": ["completed"]}, Status.COMPLETED),
    ],
)
def test_status(fields: dict[str, Any], status: Status) -> None:
    assert read_response(encoded(**fields)).status is status


@pytest.mark.parametrize(
    ("details", "reason"),
    [
        ({"reason": "content_filter"}, "content_filter"),
        ({"reason": "steered"}, "steered"),
        ({"reason": None}, "max_output_tokens"),
        (None, "max_output_tokens"),
        ("why", "max_output_tokens"),
    ],
)
def test_the_reason_of_an_incomplete_answer(details: object, reason: str) -> None:
    parsed = read_response(encoded(status="incomplete", incomplete_details=details))
    assert parsed.cut_reason == reason
    assert parsed.fields["output"][0]["status"] == "incomplete"


def test_a_completed_answer_has_no_such_reason() -> None:
    assert read_response(encoded(status="completed", incomplete_details={"reason": "odd"})).cut_reason is None


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ({"code": "server_error", "message": "Oh."}, ProviderError("Oh.", "server_error")),
        ("Oh.", ProviderError("Oh.")),
        (None, None),
        ({}, None),
        (False, None),
        (True, None),
    ],
)
def test_errors(error: object, expected: ProviderError | None) -> None:
    assert read_response(encoded(error=error)).error == expected


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "empty"),
        (b" \n ", "empty"),
        (sample(1)[:200], "cut off (200 bytes received)"),
        (b"<!DOCTYPE html><html><title>Welcome</title></html>", "HTML page"),
        (b"data: {}\n\n", "not JSON"),
        (b"[]", "not an object"),
        (b'"text"', "not an object"),
        (b"null", "not an object"),
        (b"{}", "not a response object"),
        (b'{"status": "error", "message": "no"}', "not a response object"),
        (b'{"object": "chat.completion", "choices": []}', "not a response object"),
        (b'{"output": ' * 5000, "nested too deeply"),
        (b'{"output": ' + b"[" * 300 + b"]" * 300 + b"}", "nested too deeply"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"output": ' + b"9" * 5000 + b"}", "not JSON"),
    ],
)
def test_unreadable_bodies(body: bytes, says: str) -> None:
    with pytest.raises(Unreadable) as caught:
        read_response(body)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "body",
    [
        b"  \n" + encoded(),
        b"\xef\xbb\xbf" + encoded(),
        encoded().replace(b'"Hi"', b'"caf\xe9"'),
        encoded().replace(b'"Hi"', b'"half \\ud83d of a pair, \\ud83d\\ude00 whole"'),
        encoded().replace(b'"Hi"', b'"nul \\u0000"'),
        encoded(temperature=float("nan"), top_p=float("inf")),
        encoded().replace(b'"Hi"', b'"Hi", "top_p": 1e999'),
    ],
)
def test_the_result_can_always_be_encoded(body: bytes) -> None:
    parsed = read_response(body)
    assert parsed.brings_output
    json.dumps(parsed.fields, ensure_ascii=False, allow_nan=False).encode()


def test_whole_characters_are_kept() -> None:
    body = encoded().replace(b'"Hi"', b'"half \\ud83d, \\ud83d\\ude00 whole"')
    text = read_response(body).fields["output"][0]["content"][0]["text"]
    assert text == "half \ufffd, \N{GRINNING FACE} whole"


@pytest.mark.parametrize("names", [{"id": 7, "model": []}, {"id": None}, {"id": "", "model": "\x00"}])
def test_invalid_names_are_none(names: dict[str, Any]) -> None:
    parsed = read_response(encoded(**names))
    assert parsed.id is None
    assert parsed.model is None
