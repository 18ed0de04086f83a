"""Whatever the provider's stream contains, the emitted events are a sequence that every SDK's helper accepts."""

import json
from datetime import UTC, datetime
from threading import Event as Signal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.errors import Billed
from jobs.event_stream import LIVE_FROM, OUTPUT_TYPES, Event, Progress, identity_of, remaining_events
from jobs.job import Attempt, Truncation
from jobs.store.stream_events import Chunk
from worker import live_stream
from worker.live_stream import LiveOutput
from worker.provider.sse import ServerSentEvent
from worker.provider.stream_assembly import StreamAssembly

Json = dict[str, Any]


def attempt(number: int = 1) -> Attempt:
    return Attempt(
        job_id="resp_1",
        number=number,
        api_key_id="key_1",
        model="some/model",
        worker_id="wrk_1",
        started_at=datetime(2026, 1, 1, tzinfo=UTC),
        ended_at=None,
        outcome=None,
        billed=Billed.UNKNOWN,
        truncation=Truncation.DISABLED,
        resumes=None,
        error_kind=None,
        error_message=None,
        http_status=None,
        provider_request_id=None,
        provider_response_id=None,
        usage=None,
        cost=None,
    )


def emitted(*on_events: Json | bytes, last: Chunk | None = None) -> Chunk | None:
    """Return the events that are emitted for those received."""
    output = LiveOutput(attempt(1 if last is None else 2), last, Signal())
    assembly = StreamAssembly(limit=1_000_000, on_events=output.record, emitted=output.emitted)
    for each in on_events:
        assembly.take(ServerSentEvent("", each if isinstance(each, bytes) else json.dumps(each).encode()))
    return output.unwritten()


def events_of(*on_events: Json | bytes) -> list[Event]:
    chunk = emitted(*on_events)
    return [] if chunk is None else list(chunk.events)


def added(kind: str = "message", index: int = 0, **fields: Any) -> Json:
    item = {"id": f"item_{index}", "type": kind, **fields}
    return {"type": "response.output_item.added", "output_index": index, "item": item, "sequence_number": 99}


def delta(index: int = 0, content_index: int = 0, text: str = "x") -> Json:
    place = {"output_index": index, "content_index": content_index, "item_id": "whatever"}
    return {"type": "response.output_text.delta", **place, "delta": text, "obfuscation": "abc", "sequence_number": 1}


def part(index: int = 0, content_index: int = 0, kind: str = "output_text") -> Json:
    place = {"output_index": index, "content_index": content_index}
    return {"type": "response.content_part.added", **place, "part": {"type": kind, "text": "early"}}


def test_an_event_is_emitted_under_our_indices() -> None:
    events = events_of(added(index=4), part(4), delta(4))
    assert [each["output_index"] for each in events] == [0, 0, 0]
    assert events[0]["item"] == {
        "id": "item_4",
        "type": "message",
        "role": "assistant",
        "status": "in_progress",
        "content": [],
    }
    assert events[1]["part"] == {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
    assert events[2] == {
        "type": "response.output_text.delta",
        "output_index": 0,
        "content_index": 0,
        "item_id": "item_4",
        "delta": "x",
        "logprobs": [],
    }


def test_a_part_without_a_beginning_begins_with_its_first_delta() -> None:
    assert [each["type"] for each in events_of(added(), delta(), delta(content_index=1))] == [
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.content_part.added",
        "response.output_text.delta",
    ]


@pytest.mark.parametrize(
    "on_events",
    [
        b"not json",
        b"[1, 2]",
        b'"text"',
        b"[" * 100_000,
        {"type": "response.created", "output_index": 0, "response": {}},
        {"type": "response.completed", "output_index": 0, "response": {}},
        {"type": "response.future.delta", "output_index": 0},
        {"type": "error", "message": "Oh no."},
        {"type": ["response.output_text.delta"], "output_index": 0},
        added(),
        added("function_call", 1, id="fc_1"),
        {"type": "response.output_item.added", "output_index": 1, "item": "msg"},
        {"type": "response.function_call_arguments.delta", "output_index": 0, "delta": "{"},
        {"type": "response.mcp_call_arguments.delta", "output_index": 0, "delta": "{"},
        {"type": "response.web_search_call.searching", "output_index": 0},
        part(),
    ],
)
def test_events_without_content_are_left_out(on_events: Json | bytes) -> None:
    before = events_of(added(), part())
    assert events_of(added(), part(), on_events) == before
    assert [each["type"] for each in events_of(added(), part(), on_events, delta())][-1] == "response.output_text.delta"


@pytest.mark.parametrize(
    "odd",
    [
        delta(7),
        delta(content_index=5),
        {**delta(), "delta": {"text": "x"}},
        {**delta(), "content_index": None},
        {**delta(), "content_index": -1},
        {**delta(), "output_index": "0"},
        {**delta(), "item_id": None, "output_index": None},
    ],
)
def test_a_text_is_emitted_once_whatever_its_indices(odd: Json) -> None:
    assert events_of(added(), part(), odd) == events_of(added(), part(), delta())


def test_an_item_without_an_id_gets_one() -> None:
    begun, *_, piece = events_of(added(id=None), delta())
    assert begun["item"]["id"].startswith("msg_")
    assert piece["item_id"] == begun["item"]["id"]


def test_the_next_attempt_uses_no_id_that_was_emitted_before() -> None:
    lost = emitted(added(id="msg_0"), delta(text="Bl"))
    again = emitted(added(id="msg_0"), delta(text="Blue."), last=lost)
    assert lost is not None
    assert again is not None
    names = [each["item"]["id"] for each in (*lost.events, *again.events) if each["type"].endswith("item.added")]
    assert names[0] == "msg_0"
    assert len(set(names)) == 2


def test_nothing_is_emitted_for_an_item_after_its_end() -> None:
    done = {"type": "response.output_item.done", "output_index": 0, "item": {"id": "item_0", "type": "message"}}
    assert events_of(added(), done, delta(), done) == events_of(added(), done)


def test_an_end_has_the_shape_of_the_answers_own() -> None:
    item = {"id": "item_0", "type": "message", "status": "in_progress", "content": [{"type": "text", "text": "Hi"}]}
    last = events_of(added(), {"type": "response.output_item.done", "output_index": 0, "item": item})[-1]
    assert last["item"]["status"] == "completed"
    assert last["item"]["content"] == [{"type": "output_text", "text": "Hi", "annotations": [], "logprobs": []}]


def test_the_next_attempt_closes_what_was_open_and_goes_on_behind_it() -> None:
    lost = emitted(added(index=0), added("reasoning", 1), delta(0))
    assert lost is not None
    again = emitted(added(index=0, id="fresh"), delta(0), last=lost)
    assert again is not None
    assert again.number == lost.next_number == LIVE_FROM + 4
    assert [(each["type"].rpartition("_")[2], each["output_index"]) for each in again.events] == [
        ("item.done", 0),
        ("item.done", 1),
        ("item.added", 2),
        ("part.added", 2),
        ("text.delta", 2),
    ]


@pytest.mark.parametrize(
    ("answered", "emitted_last"),
    [
        ({"id": "a", "content": [{"type": "output_text"}]}, {"content": [{"type": "output_text"}]}),
        ({"id": "b", "content": [{"type": "output_text"}]}, {"status": "completed"}),
        ({"id": "a", "type": "reasoning", "content": []}, {"status": "completed"}),
    ],
)
def test_an_open_item_ends_as_the_answer_has_it_under_the_names_it_was_added_with(
    answered: Json, emitted_last: Json
) -> None:
    chunk = emitted(added(id="a"))
    assert chunk is not None
    [last, *_] = remaining_events(chunk.progress, [{"type": "message", **answered}])
    assert last["type"] == "response.output_item.done"
    assert {name: last["item"][name] for name in emitted_last} == emitted_last
    assert (last["item"]["type"], last["item"]["id"]) == ("message", "a")


def arguments(text: str = "{}", index: int = 0) -> Json:
    return {"type": "response.function_call_arguments.delta", "output_index": index, "delta": text}


def test_a_call_is_emitted_once_it_is_complete_and_in_order() -> None:
    call = {"id": "fc_1", "type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}"}
    done = {"type": "response.output_item.done", "output_index": 0, "item": call}
    begun = [added("function_call", id="fc_1", call_id="call_1", name="f", arguments=""), arguments()]
    assert events_of(*begun) == []
    emitted_last = events_of(*begun, added(index=1), done)
    assert [(each["type"], each["output_index"]) for each in emitted_last] == [
        ("response.output_item.added", 0),
        ("response.output_item.added", 1),
        ("response.function_call_arguments.delta", 1),
        ("response.function_call_arguments.done", 1),
        ("response.output_item.done", 1),
    ]
    assert emitted_last[-1]["item"] == call


def test_a_call_that_begins_twice_keeps_what_it_has() -> None:
    begun = added("function_call", id="fc_1", call_id="call_1", name="f", arguments="")
    call = {**begun["item"], "arguments": '{"a":1}'}
    done = {"type": "response.output_item.done", "output_index": 0, "item": call}
    sent = events_of(begun, arguments('{"a"'), begun, arguments(":1}"), done)
    assert [each["delta"] for each in sent if "delta" in each] == ['{"a"', ":1}"]


def test_a_call_that_ends_under_another_name_keeps_its_first() -> None:
    done = {"type": "response.output_item.done", "output_index": 0, "item": {"type": "function_call", "id": "fc_9"}}
    begun = added("function_call", id="fc_1", call_id="call_1", name="f", arguments="")
    last = events_of(begun, arguments('{"a":1}'), done)[-1]["item"]
    assert last == {**begun["item"], "arguments": '{"a":1}'}


@pytest.mark.parametrize("kind", ["local_shell_call", "computer_call", "apply_patch_call", "mcp_approval_request"])
def test_no_call_that_a_client_may_run_is_sent_incomplete(kind: str) -> None:
    begun = added(kind, id="x_1", call_id="call_1", status="in_progress")
    assert events_of(begun) == []
    done = {"type": "response.output_item.done", "output_index": 0, "item": {**begun["item"], "status": "completed"}}
    assert [each["type"].rpartition(".")[2] for each in events_of(begun, done)] == ["added", "done"]


def test_a_call_that_is_too_large_is_left_to_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_stream, "MOST_UNWRITTEN", 2_000)
    begun = added("function_call", id="fc_1", call_id="call_1", arguments="")
    done = {"type": "response.output_item.done", "output_index": 0, "item": begun["item"]}
    assert events_of(begun, *[arguments("x" * 500)] * 10, done) == []


def test_a_call_that_a_lost_attempt_left_incomplete_is_never_emitted() -> None:
    begun = [added("function_call", id="fc_1", call_id="call_1", arguments=""), arguments('{"city"'), added(index=1)]
    lost = emitted(*begun)
    assert lost is not None
    again = emitted(added("message", id="msg_2"), last=lost)
    assert again is not None
    assert [each["item"]["type"] for each in (*lost.events, *again.events)] == ["message"] * 3


def test_a_stream_that_grows_too_large_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_stream, "MOST_UNWRITTEN", 2_000)
    chunk = emitted(added(), *[delta(text="x" * 500)] * 100)
    assert chunk is not None
    assert len(chunk.events) < 10
    assert list(remaining_events(chunk.progress, [{"id": "item_0", "type": "message", "content": []}]))


def test_an_internal_error_ends_the_stream_but_not_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(live_stream, "identity_of", broken)
    output = LiveOutput(attempt(), None, Signal())
    output.record([added()])
    monkeypatch.undo()
    output.record([added()])
    assert output.unwritten() is None


class Helper:
    """Check all that the SDKs' helpers require: the newest Python's and Node's, and 1.x with its positions."""

    def __init__(self) -> None:
        self.items: list[Json] = []
        self.done: set[int] = set()
        self.identities: set[str] = set()

    def take(self, event: Event) -> None:
        kind, index = event["type"], event["output_index"]
        assert kind in OUTPUT_TYPES
        if kind == "response.output_item.added":
            assert index == len(self.items)
            keys = identity_of(event["item"])
            assert keys
            assert not keys & self.identities
            self.identities |= keys
            self.items.append(json.loads(json.dumps(event["item"])))
            return
        item = self.items[index]
        if kind == "response.output_item.done":
            assert identity_of(event["item"]) == identity_of(item)
            assert event["item"]["type"] == item["type"]
            self.done.add(index)
            return
        assert event["item_id"] == item["id"]
        if "content_index" in event:
            self._in_content(kind, event, item.setdefault("content", []))
        elif kind == "response.reasoning_summary_part.added":
            assert event["summary_index"] == len(item["summary"])
            item["summary"].append(event["part"])
        elif "summary_index" in event:
            assert item["summary"][event["summary_index"]]

    def _in_content(self, kind: str, event: Event, content: list[Json]) -> None:
        if kind == "response.content_part.added":
            assert event["content_index"] == len(content)
            content.append(event["part"])
            return
        held = content[event["content_index"]]["type"]
        if kind == "response.content_part.done":
            assert event["part"]["type"] == held
        else:
            assert held == kind.split(".")[1]
            assert not kind.endswith(".delta") or isinstance(event["delta"], str)

    def complete(self, output: list[Json]) -> None:
        final = set[str]().union(*(identity_of(each) for each in output))
        for index, item in enumerate(self.items):
            assert index in self.done or identity_of(item) & final


ids = st.sampled_from(["a", "b", "c", None])
small = st.integers(-1, 3)
item_types = ["message", "reasoning", "function_call", "custom_tool_call", "web_search_call", "new_call"]
items: st.SearchStrategy[Json] = st.fixed_dictionaries(
    {"type": st.sampled_from(item_types)},
    optional={"id": ids, "call_id": ids, "status": st.just("completed"), "summary": st.just([]), "content": st.none()},
)
parts: st.SearchStrategy[Json] = st.fixed_dictionaries(
    {"type": st.sampled_from(["output_text", "refusal", "reasoning_text", "summary_text", "other"])},
    optional={"text": st.text(max_size=3)},
)
received_events: st.SearchStrategy[Json] = st.fixed_dictionaries(
    {"type": st.sampled_from(sorted(OUTPUT_TYPES)), "output_index": small},
    optional={
        "item": items,
        "part": parts,
        "content_index": small,
        "summary_index": small,
        "annotation_index": small,
        "delta": st.text(max_size=3),
        "item_id": ids,
    },
)
usual = st.sampled_from(
    [added(), added(index=1), added("reasoning", 2, summary=[]), part(), delta(), delta(1), part(1), part(2)]
)


@settings(max_examples=400, deadline=None)
@given(st.lists(st.lists(st.one_of(usual, received_events), max_size=25), max_size=3), st.lists(items, max_size=4))
def test_any_stream_and_any_answer_make_a_sequence_that_fits(streams: list[list[Json]], output: list[Json]) -> None:
    helper = Helper()
    last: Chunk | None = None
    for on_events in streams:
        chunk = emitted(*on_events, last=last)
        if chunk is not None:
            for event in chunk.events:
                helper.take(event)
            last = Chunk("resp_1", 1, chunk.number, chunk.events, Progress.from_json(chunk.progress.to_json()))
    for event in remaining_events(Progress() if last is None else last.progress, output):
        helper.take(event)
    helper.complete(output)
