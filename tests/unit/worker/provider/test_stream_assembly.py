"""Streams with missing, duplicate or moved events: everything that arrived whole is kept, and emitted once."""

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.errors import ErrorKind, Failure
from jobs.event_stream import Event, Progress, identity_of, remaining_events
from jobs.job import Answer, CallReport
from jobs.model_catalog import Model
from worker.provider.classify import classify
from worker.provider.sse import EventTooLarge, ServerSentEvent
from worker.provider.stream_assembly import StreamAssembly

Json = dict[str, Any]

MODEL = Model("some/model")
NOW = datetime(2026, 1, 1, tzinfo=UTC)
USAGE = {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}


def part(text: str, kind: str = "output_text") -> Json:
    if kind == "refusal":
        return {"type": kind, "refusal": text}
    return {"type": kind, "text": text, "annotations": [], "logprobs": []}


def message(text: str, name: str = "msg_1", kind: str = "output_text") -> Json:
    content = [part(text, kind)]
    return {"type": "message", "id": name, "role": "assistant", "status": "completed", "content": content}


def call(arguments: str, name: str = "fc_1", call_id: str = "call_1") -> Json:
    item = {"type": "function_call", "id": name, "call_id": call_id, "name": "f", "arguments": arguments}
    return {**item, "status": "completed"}


def thought(text: str, name: str = "rs_1") -> Json:
    return {"type": "reasoning", "id": name, "summary": [{"type": "summary_text", "text": text}] if text else []}


def pieces(text: str) -> list[str]:
    return [text[start : start + 3] for start in range(0, len(text), 3)]


def item_events(item: Json, place: int) -> list[Json]:
    """Return the events that OpenAI sends for an item."""
    scope = {"item_id": item["id"], "output_index": place}
    emptied = {
        **item,
        **{"message": {"content": []}, "reasoning": {"summary": []}}.get(item["type"], {"arguments": ""}),
    }
    events: list[Json] = [{"type": "response.output_item.added", "output_index": place, "item": emptied}]
    if item["type"] == "message":
        [part] = item["content"]
        field = "refusal" if part["type"] == "refusal" else "text"
        inner = {**scope, "content_index": 0}
        events.append({"type": "response.content_part.added", **inner, "part": {**part, field: ""}})
        prefix, text = f"response.{part['type']}", part[field]
        events += [{"type": f"{prefix}.delta", **inner, "delta": each} for each in pieces(text)]
        events.append({"type": f"{prefix}.done", **inner, field: text})
        events.append({"type": "response.content_part.done", **inner, "part": part})
    elif item["type"] == "function_call":
        prefix = "response.function_call_arguments"
        events += [{"type": f"{prefix}.delta", **scope, "delta": each} for each in pieces(item["arguments"])]
        events.append({"type": f"{prefix}.done", **scope, "arguments": item["arguments"]})
    for index, summary in enumerate(item.get("summary", ())):
        inner = {**scope, "summary_index": index}
        text = summary["text"]
        events.append({"type": "response.reasoning_summary_part.added", **inner, "part": {**summary, "text": ""}})
        prefix = "response.reasoning_summary_text"
        events += [{"type": f"{prefix}.delta", **inner, "delta": each} for each in pieces(text)]
        events.append({"type": f"{prefix}.done", **inner, "text": text})
        events.append({"type": "response.reasoning_summary_part.done", **inner, "part": summary})
    return [*events, {"type": "response.output_item.done", "output_index": place, "item": item}]


def stream_of(items: Iterable[Json]) -> list[Json]:
    """Return the events of a valid stream."""
    items = list(items)
    response = {"id": "resp_1", "object": "response", "model": "m", "status": "in_progress", "output": []}
    events: list[Json] = [{"type": "response.created", "response": response}]
    for place, item in enumerate(items):
        events += item_events(item, place)
    done = {**response, "status": "completed", "output": items, "usage": USAGE}
    events.append({"type": "response.completed", "response": done})
    return [{**event, "sequence_number": number} for number, event in enumerate(events)]


class Run:
    """An assembled stream: the events that were emitted, and the call's report."""

    def __init__(self, events: Iterable[Json | bytes], *, is_broken: bool = False) -> None:
        self.emitted: list[Event] = []
        assembly = StreamAssembly(limit=1_000_000, on_events=self.emitted.extend)
        for event in events:
            assembly.take(ServerSentEvent("", event if isinstance(event, bytes) else json.dumps(event).encode()))
        assembly.close(is_broken=is_broken)
        self.is_answered = assembly.is_answered
        body = assembly.body()
        self.report: CallReport = classify(200, {}, body, MODEL, now=NOW)
        self.output: list[Json] = []
        if isinstance(self.report.result, Answer):
            self.output = self.report.result.response["output"]

    def sequence(self) -> list[Event]:
        """Return all events that a client receives in the end."""
        added = [event["item"] for event in self.emitted if event["type"] == "response.output_item.added"]
        done = {event["item"]["id"] for event in self.emitted if event["type"] == "response.output_item.done"}
        kept = [[sorted(identity_of(item)), None if item["id"] in done else item] for item in added]
        return [*self.emitted, *remaining_events(Progress.from_json(kept), self.output)]

    def deltas(self, family: str) -> str:
        return "".join(each["delta"] for each in self.sequence() if each["type"] == f"response.{family}.delta")


def texts(items: Iterable[Json]) -> list[str]:
    parts = [each for item in items if item["type"] == "message" for each in item["content"]]
    return [each.get("text") or each.get("refusal") or "" for each in parts]


def arguments(items: Iterable[Json]) -> list[str]:
    return [item["arguments"] for item in items if item["type"] == "function_call"]


def test_a_valid_stream_is_emitted_unchanged() -> None:
    items = [thought("Hm."), message("Blue sky."), call('{"a":1}')]
    run = Run(stream_of(items))
    assert run.output == items
    assert run.report.provider_response_id == "resp_1"
    assert run.deltas("output_text") == "Blue sky."
    assert run.deltas("function_call_arguments") == '{"a":1}'
    kinds = [event["type"] for event in run.emitted]
    assert kinds == [e["type"] for e in stream_of(items)[1:-1]]


@pytest.mark.parametrize(
    "ending", ["nothing", "done line", "empty", "without response", "response.done", "in progress"]
)
def test_an_odd_end_loses_nothing(ending: str) -> None:
    items = [thought("Hm."), message("Blue."), call('{"a":1}')]
    *events, last = stream_of(items)
    response = last["response"]
    ends: dict[str, list[Json | bytes]] = {
        "nothing": [],
        "done line": [b"[DONE]"],
        "empty": [{**last, "response": {**response, "output": []}}],
        "without response": [{"type": "response.completed"}, b"[DONE]"],
        "response.done": [{**last, "type": "response.done"}],
        "in progress": [{**last, "response": {**response, "status": "in_progress", "output": None}}],
    }
    run = Run([*events, *ends[ending]])
    assert run.output == items
    assert (run.report.usage is None) is (ending in ("nothing", "done line", "without response"))


@pytest.mark.parametrize("status", ["incomplete", "failed", "cancelled"])
def test_a_response_that_is_done_ends_by_its_status(status: str) -> None:
    *events, last = stream_of([message("Blue.")])
    run = Run([*events, {"type": "response.done", "response": {**last["response"], "status": status, "output": []}}])
    if status == "incomplete":
        assert isinstance(run.report.result, Answer)
        assert run.report.result.cut_reason
    else:
        assert isinstance(run.report.result, Failure)
        assert run.report.failed_response is not None
        assert texts(run.report.failed_response["output"]) == ["Blue."]


@pytest.mark.parametrize("length", range(2, len(stream_of([message("Blue.")])) - 2))
def test_a_stream_that_ends_inside_an_item_is_interrupted(length: int) -> None:
    assert not Run(stream_of([message("Blue.")])[:length]).is_answered


def test_after_a_whole_item_only_a_clean_end_ends_the_answer() -> None:
    events = stream_of([message("Blue.")])[:-1]
    assert Run(events).is_answered
    assert not Run(events, is_broken=True).is_answered
    assert not Run(stream_of([thought("Hm.")])[:-1]).is_answered  # the answer itself is missing


def test_a_done_line_completes_a_whole_text_without_the_end_of_its_item() -> None:
    events = stream_of([message("Blue.")])[:-3]
    assert events[-1]["type"] == "response.output_text.done"
    assert not Run(events).is_answered
    assert texts(Run([*events, b"[DONE]"]).output) == ["Blue."]


def test_an_incomplete_call_is_dropped() -> None:
    *begun, _done, _item_done, last = stream_of([message("Blue."), call('{"city":"Paris"}')])
    empty = {**last, "response": {**last["response"], "output": []}}
    assert arguments(Run([*begun, empty]).output) == ['{"city":"Paris"}']
    cut = Run([*begun[:-1], empty])
    assert (texts(cut.output), arguments(cut.output)) == (["Blue."], [])
    assert cut.deltas("function_call_arguments") == ""


def test_the_last_event_adds_to_the_deltas() -> None:
    events = stream_of([message("Blue sky.")])
    cut = [each for each in events if each["type"] in ("response.created", "response.output_item.added")]
    run = Run([*cut, events[3], events[-1]])
    assert events[3]["delta"] == "Blu"
    assert run.deltas("output_text") == "Blue sky."
    assert texts(run.output) == ["Blue sky."]


def test_half_a_character_waits_for_its_other_half() -> None:
    events = stream_of([message("xyz")])
    place = next(number for number, each in enumerate(events) if each["type"].endswith("text.delta"))
    halves = [{**events[place], "delta": "a\ud83d"}, {**events[place], "delta": "\ude00b"}]
    last = {"type": "response.completed", "response": {"output": []}}
    run = Run([*events[:place], *({**each, "sequence_number": None} for each in halves), last])
    assert [each["delta"] for each in run.emitted if "delta" in each] == ["a", "\U0001f600b"]
    assert texts(run.output) == ["a\U0001f600b"]


def test_an_answer_above_the_limit_is_refused() -> None:
    assembly = StreamAssembly(limit=1_000)
    piece = ServerSentEvent("", json.dumps({"type": "response.output_text.delta", "delta": "x" * 400}).encode())
    assembly.take(piece)
    assembly.take(piece)
    with pytest.raises(EventTooLarge):
        assembly.take(piece)


words = st.text('ab {}"\u00e9\U0001f600', min_size=1, max_size=12)
drawn = st.one_of(
    st.tuples(st.just("message"), words), st.tuples(st.just("refusal"), words), st.tuples(st.just("reasoning"), words),
    st.tuples(st.just("function_call"), words),
)  # fmt: skip


def built(kind: str, text: str, place: int) -> Json:
    match kind:
        case "message" | "refusal":
            return message(f"{place}{text}", f"msg_{place}", "output_text" if kind == "message" else kind)
        case "reasoning":
            return thought(f"{place}{text}", f"rs_{place}")
        case _:
            return call(json.dumps({"place": place, "a": text}), f"fc_{place}", f"call_{place}")


answers = st.lists(drawn, min_size=1, max_size=4).map(
    lambda each: [built(kind, text, place) for place, (kind, text) in enumerate(each)]
)


@st.composite
def damaged(draw: st.DrawFn, items: list[Json]) -> tuple[list[Json], bool, bool]:
    """Draw a damaged stream; whether it was truncated; and whether deltas are missing or moved for good."""
    events = stream_of(items)
    loses_deltas = False
    for kind in draw(st.lists(st.sampled_from(["drop", "double", "swap", "ids", "places", "numbers"]), max_size=3)):
        place = draw(st.integers(0, len(events) - 2))  # the last event has a test of its own
        event = events[place]
        match kind:
            case "drop":
                loses_deltas |= event["type"].endswith(".delta")
                del events[place]
            case "double":
                events.insert(place, event)
            case "swap" if place + 2 < len(events):
                events[place : place + 2] = reversed(events[place : place + 2])
            case "ids" | "places" if "item_id" in event:
                loses_deltas |= events.count(event) > 1  # two copies that differ are two deltas
                events[place] = {**event, **({"item_id": "other"} if kind == "ids" else {"output_index": 77})}
            case "numbers":
                events = [{**each, "content_index": each["content_index"] + 1} if "content_index" in each else each
                          for each in events]  # fmt: skip
    is_cut = draw(st.booleans())
    if is_cut:
        events = events[: draw(st.integers(0, len(events)))]
    return events, is_cut, loses_deltas


@settings(max_examples=150, deadline=None)
@given(st.data(), answers)
def test_no_whole_text_or_call_is_lost_or_emitted_twice(data: st.DataObject, items: list[Json]) -> None:
    events, is_cut, loses_deltas = data.draw(damaged(items))
    run = Run(events, is_broken=data.draw(st.booleans()))
    has_last = any(each["type"] == "response.completed" for each in events)
    arrived = [each["item"] for each in events if each["type"] == "response.output_item.done"]
    if has_last:
        assert run.is_answered
        arrived = items
    if not run.is_answered:
        assert is_cut
        assert isinstance(run.report.result, Failure)
        assert run.report.result.kind is ErrorKind.MALFORMED_ANSWER  # the body is empty; the transport reports why
        return
    if all(item["type"] == "reasoning" for item in items) and has_last:
        assert isinstance(run.report.result, Failure)
        assert run.report.result.kind is ErrorKind.EMPTY_OUTPUT
        return
    found = [*texts(run.output), *arguments(run.output)]
    assert sorted(set(found)) == sorted(found)
    assert set(found) >= {*texts(arrived), *arguments(arrived)}
    if has_last:
        assert (texts(run.output), arguments(run.output)) == (texts(items), arguments(items))
    names = [item["id"] for item in run.output]
    assert len(set(names)) == len(names)
    ends = [each["item"] for each in run.sequence() if each["type"] == "response.output_item.done"]
    assert sorted(item["id"] for item in ends) == sorted(names)
    assert sorted(texts(ends)) == sorted(texts(run.output))
    assert sorted(arguments(ends)) == sorted(arguments(run.output))
    if not loses_deltas:
        assert sorted(run.deltas("output_text")) == sorted("".join(
            each["text"] for item in run.output if item["type"] == "message"
            for each in item["content"] if each["type"] == "output_text"
        ))  # fmt: skip
