"""Server-sent events: the order that SDKs require, the place of the cost, and every faulty end."""

from typing import Any

import httpx
import openai
import pytest

from tests.simulator.provider import KEY, Provider, read_frame

Json = dict[str, Any]


def types(events: list[Json]) -> list[str]:
    return [event["type"] for event in events]


def test_a_stream_has_the_documented_sequence(provider: Provider) -> None:
    events = provider.events("[[sim: full text=0123456789 chunk=4 every=0]]")
    assert types(events) == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.output_item.done",
        "response.output_item.added",
        "response.content_part.added",
        *["response.output_text.delta"] * 3,
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert "".join(event["delta"] for event in events if "delta" in event) == "0123456789"
    first, last = events[0]["response"], events[-1]["response"]
    assert (first["status"], first["output"], first["usage"]) == ("in_progress", [], None)
    assert first["id"] == last["id"]
    assert last["output"] == [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert provider.only_call()["outcome"] == "answered"
    assert provider.only_call()["billed"] is True


def test_the_cost_is_in_the_last_chunk_and_in_no_header(provider: Provider) -> None:
    response = provider.ask("[[sim: full every=0 cost=0.5]]", stream=True)
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["x-inference-id"]
    assert "x-aimlapi-usd-spent" not in response.headers
    meta = {"usage": {"credits_used": 1_000_000, "usd_spent": 0.5}}
    assert read_frame(response.text.removesuffix("\n\n").split("\n\n")[-1])["meta"] == meta
    provider.configure(cost="chunk")
    events = provider.events("[[sim: full every=0 cost=0.5]]")
    assert events[-2]["type"] == "response.completed"
    assert events[-1] == {"meta": meta}
    assert "meta" not in provider.events("[[sim: full every=0 cost=none]]")[-1]


@pytest.mark.parametrize(
    ("step", "final"),
    [
        ("failed", "response.failed"),
        ("incomplete", "response.incomplete"),
        ("empty", "response.completed"),
        ("sample-1", "response.completed"),
        ("sample-2", "response.completed"),
        ("no-status", "response.completed"),
        ("many-items items=2", "response.completed"),
    ],
)
def test_the_last_event_carries_the_whole_response(provider: Provider, step: str, final: str) -> None:
    events = provider.events(f"[[sim: {step} every=0]]")
    plain = provider.ask(f"[[sim: {step}]]").json()
    assert events[-1]["type"] == final
    assert events[-1]["response"].keys() == plain.keys() - {"meta"}
    assert events[-1]["response"].get("error") == plain.get("error")


def test_arguments_refusals_and_unknown_events_are_streamed(provider: Provider) -> None:
    called = provider.events('[[sim: tool-call name=look arguments="{}" chunk=1 every=0]]')
    assert [event["delta"] for event in called if "delta" in event] == ["{", "}"]
    assert "response.function_call_arguments.done" in types(called)
    refused = provider.events("[[sim: refusal text=No every=0]]")
    assert "response.refusal.delta" in types(refused)
    assert next(event for event in refused if event["type"] == "response.refusal.done")["refusal"] == "No"
    assert "response.future_thought.delta" in types(provider.events("[[sim: unknown-items every=0]]"))


def test_the_opening_comes_before_the_delay_and_deltas_take_time(provider: Provider) -> None:
    with provider.raw("[[sim: full delay=60]]", stream=True) as call:
        opening = call.read_until(b"response.in_progress")
        assert opening.startswith(b"HTTP/1.1 200 OK")
        assert b"output_item" not in opening
    slow = provider.ask("[[sim: full text=0123 chunk=1 every=0.05]]", stream=True)
    assert slow.elapsed.total_seconds() >= 0.2


def test_truncated_cuts_inside_an_event(provider: Provider) -> None:
    with (
        pytest.raises(httpx.RemoteProtocolError, match="incomplete chunked read"),
        provider.http.stream("POST", "/v1/responses", json=provider.body("[[sim: truncated]]", stream=True)) as answer,
    ):
        list(answer.iter_raw())
    with provider.raw("[[sim: truncated]]", stream=True) as call:
        got, _ = call.read_to_end()
    assert b"response.output_item.added" in got
    assert not got.endswith(b"\n\n\r\n")
    assert provider.calls()[-1]["billed"] is True


def test_stream_end_lacks_the_last_event(provider: Provider) -> None:
    events = provider.events("[[sim: stream-end every=0]]")
    assert events[-1]["type"] == "response.output_item.done"
    ended = provider.only_call()
    assert (ended["outcome"], ended["billed"]) == ("dropped", True)
    assert provider.ask("[[sim: stream-end]]").json()["status"] == "completed"


def test_stream_error_ends_with_an_error_event(provider: Provider) -> None:
    events = provider.events('[[sim: stream-error code=rate_limit_exceeded message="Later" every=0]]')
    last = events[-1]
    assert (last["type"], last["code"], last["message"]) == ("error", "rate_limit_exceeded", "Later")
    assert last["sequence_number"] == len(events) - 1
    assert "response.completed" not in types(events)


def test_stall_stops_in_the_middle(provider: Provider) -> None:
    with provider.raw("[[sim: stall]]", stream=True) as call:
        call.read_until(b"response.output_item.added")
    assert provider.await_call("client_disconnected")["billed"] is True


def test_slow_streams_byte_by_byte(provider: Provider) -> None:
    assert provider.events("[[sim: slow every=0 text=Drip]]")[-1]["type"] == "response.completed"


def test_errors_before_the_stream_are_plain(provider: Provider) -> None:
    response = provider.ask("[[sim: 429]]", stream=True)
    assert (response.status_code, response.json()["message"]) == (429, "Too Many Requests")


def test_the_official_sdk_reads_both_forms(provider: Provider) -> None:
    with openai.OpenAI(base_url=f"{provider.url}/v1", api_key=KEY, max_retries=0) as client:
        answer = client.responses.create(model="openai/o3-pro", input="[[sim: full text=Plain]]")
        assert answer.output_text == "Plain"
        assert answer.usage is not None
        assert answer.usage.output_tokens_details.reasoning_tokens == 64
        with client.responses.stream(
            model="openai/o3-pro", input="[[sim: many-items items=3 text=Item every=0]]"
        ) as stream:
            assert stream.get_final_response().output_text == "Item 1. Item 2. Item 3. "
