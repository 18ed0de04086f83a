"""Streams of a streaming provider: live, resumable at any number, and one sequence whatever dies."""

import json
import threading
import time
from collections.abc import Iterator
from typing import Any, Self

import httpx
import openai
import pytest
from openai.types.responses import ResponseStreamEvent

from jobs.event_stream import OUTPUT_TYPES
from tests.support.stack import API_KEY, Stack
from tests.support.valkey import ValkeyServer
from tests.support.waiting import await_until

pytestmark = pytest.mark.long

MODEL = "openai/o3-pro"
BEGINNINGS = frozenset({"response.created", "response.queued", "response.in_progress"})
ENDS = frozenset({"response.completed", "response.failed", "response.incomplete"})
TEXT = "one two three four five six seven eight nine ten eleven twelve"
PROMPT = f'[[sim: full text="{TEXT}" chunk=3 every=0.05]] Count.'
SLOW = f'[[sim: full text="{TEXT}" chunk=3 every=0.12]] Count.'
WORKER_TIMEOUT = 2

Json = dict[str, Any]


@pytest.fixture(scope="module")
def valkey_of_module() -> Iterator[ValkeyServer]:
    with ValkeyServer() as valkey:
        yield valkey


@pytest.fixture(scope="module")
def stack(
    database_url_of_module: str, valkey_of_module: ValkeyServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    settings = {
        "BACKBURNER_PROVIDER_TRANSPORT": "stream",
        "BACKBURNER_WORKER_TIMEOUT_SECONDS": str(WORKER_TIMEOUT),
    }
    with Stack(database_url_of_module, valkey_of_module.url, tmp_path_factory.mktemp("stack"), settings) as stack:
        yield stack


class Watcher:
    """A client that watches a response and resumes its stream whenever it breaks off."""

    def __init__(self, stack: Stack, job_id: str, starting_after: int | None = None) -> None:
        self._stack = stack
        self._job_id = job_id
        self.events: list[Json] = []
        self.starting_after = starting_after
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self.has_seen_the_end:
            query = {"stream": "true"}
            last = self.events[-1]["sequence_number"] if self.events else self.starting_after
            if last is not None:
                query["starting_after"] = str(last)
            try:
                with (
                    httpx.Client(timeout=30, trust_env=False) as http,
                    http.stream(
                        "GET",
                        f"{self._stack.base_url}/responses/{self._job_id}",
                        params=query,
                        headers={"authorization": f"Bearer {API_KEY}"},
                    ) as answer,
                ):
                    for line in answer.iter_lines():
                        if line.startswith("data: {"):
                            event = json.loads(line.removeprefix("data: "))
                            if event["type"] != "error":
                                self.events.append(event)
            except httpx.HTTPError:
                time.sleep(0.1)

    @property
    def has_seen_the_end(self) -> bool:
        return bool(self.events) and self.events[-1]["type"] in ENDS

    @property
    def text(self) -> str:
        return "".join(each["delta"] for each in self.events if each["type"] == "response.output_text.delta")

    def until_text(self) -> Self:
        await_until(lambda: len(self.text) > 8, 20, lambda: f"no text came\n{self._stack.logs()}")
        return self

    def all(self, seconds: float = 40) -> list[Json]:
        self._thread.join(seconds)
        assert self.has_seen_the_end, f"no end: {[each['type'] for each in self.events]}\n{self._stack.logs()}"
        first = 0 if self.starting_after is None else self.starting_after + 1
        assert [each["sequence_number"] for each in self.events] == list(range(first, first + len(self.events)))
        return self.events


def begin(stack: Stack, prompt: str, **fields: Any) -> str:
    """Create a background response that streams; return its id."""
    with stack.openai().responses.create(
        model=MODEL, input=prompt, background=True, stream=True, extra_body=fields
    ) as events:
        first = next(iter(events))
    assert first.type == "response.created"
    return first.response.id


def accepted_by_the_helper(events: list[Json]) -> None:
    """Return the result of the SDK's own stream helper, which refuses an inconsistent sequence."""

    def serve(request: httpx.Request) -> httpx.Response:
        body = "".join(f"event: {each['type']}\ndata: {json.dumps(each)}\n\n" for each in events)
        return httpx.Response(200, text=body, headers={"content-type": "text/event-stream"})

    replaying: Any = httpx.Client(transport=httpx.MockTransport(serve))  # which the SDK takes, and its types do not
    with (
        openai.OpenAI(base_url="http://sdk", api_key="x", http_client=replaying) as client,
        client.responses.stream(response_id="resp_1") as stream,
    ):
        if events[-1]["type"] == "response.completed":
            assert stream.get_final_response().output_text == TEXT
        else:
            stream.until_done()


def test_events_come_while_the_answer_is_made(stack: Stack) -> None:
    began = time.monotonic()
    arrivals: list[tuple[float, ResponseStreamEvent]] = []
    with stack.openai().responses.create(model=MODEL, input=PROMPT, stream=True) as events:
        for event in events:
            arrivals.append((time.monotonic() - began, event))  # noqa: PERF401  # the moments matter
    kinds = [event.type for _, event in arrivals]
    assert kinds[:3] == ["response.created", "response.queued", "response.in_progress"]
    assert kinds[-1] == "response.completed"
    assert set(kinds) <= BEGINNINGS | ENDS | OUTPUT_TYPES
    assert [event.sequence_number for _, event in arrivals] == list(range(len(arrivals)))
    deltas = [(at, event.delta) for at, event in arrivals if event.type == "response.output_text.delta"]
    assert "".join(delta for _, delta in deltas) == TEXT
    assert deltas[-1][0] - deltas[0][0] > 0.5, "all came at once"
    last = arrivals[-1][1]
    assert last.type == "response.completed"
    assert last.response.output_text == TEXT
    [created] = [event for _, event in arrivals if event.type == "response.created"]
    assert created.response.id == last.response.id
    assert len(stack.calls(last.response.id)) == 1


def test_events_right_before_the_end_are_passed_on(stack: Stack) -> None:
    prompt = f'[[sim: full text="{TEXT}" chunk=3 every=0.01]] Count.'
    with stack.openai().responses.create(model=MODEL, input=prompt, stream=True) as events:
        kinds: list[str] = [event.type for event in events]
    deltas = ["response.output_text.delta"] * len(range(0, len(TEXT), 3))
    done = ["response.output_text.done", "response.content_part.done", "response.output_item.done"]
    assert kinds[kinds.index(deltas[0]) :] == [*deltas, *done, "response.completed"]


def test_the_helper_is_satisfied(stack: Stack) -> None:
    with stack.openai().responses.stream(model=MODEL, input=PROMPT) as stream:
        final = stream.get_final_response()
    assert final.output_text == TEXT
    with stack.openai().responses.stream(response_id=final.id, starting_after=4) as again:
        assert next(iter(again)).sequence_number == 5
        assert again.get_final_response().output_text == TEXT


def test_it_can_be_taken_up_after_every_event(stack: Stack) -> None:
    job_id = begin(stack, PROMPT)
    live = Watcher(stack, job_id)
    with stack.openai().responses.retrieve(job_id, stream=True) as events:
        for event in events:
            if event.type == "response.output_text.delta":
                break
    late = Watcher(stack, job_id, event.sequence_number)
    whole = live.all()
    assert late.all() == whole[event.sequence_number + 1 :]
    for number in range(len(whole)):
        again = stack.openai().responses.retrieve(job_id, stream=True, starting_after=number)
        assert [each.sequence_number for each in again] == list(range(number + 1, len(whole)))
    assert Watcher(stack, job_id).all() == whole


@pytest.mark.parametrize(
    ("behaviour", "last", "status"),
    [
        ("incomplete text=Once_upon", "response.incomplete", "incomplete"),
        ("stream-error code=invalid_prompt", "response.failed", "failed"),
        ("400-value", "response.failed", "failed"),
        ("refusal", "response.completed", "completed"),
        ("tool-call name=look_up", "response.completed", "completed"),
        ("many-items items=3", "response.completed", "completed"),
        ("unknown-items", "response.completed", "completed"),
        ("output-null", "response.completed", "completed"),
        ("sample-2", "response.completed", "completed"),
    ],
)
def test_it_ends_as_the_response_does(stack: Stack, behaviour: str, last: str, status: str) -> None:
    events = Watcher(stack, begin(stack, f"[[sim: {behaviour}]] Hello")).all()
    assert (events[-1]["type"], events[-1]["response"]["status"]) == (last, status)
    assert {each["type"] for each in events} <= BEGINNINGS | ENDS | OUTPUT_TYPES
    reported = [each["item"]["id"] for each in events if each["type"] == "response.output_item.done"]
    if last != "response.failed":
        assert reported == [each["id"] for each in events[-1]["response"]["output"]]


def test_a_cancelled_one_ends_with_a_type_that_every_sdk_knows(stack: Stack) -> None:
    job_id = begin(stack, SLOW)
    watcher = Watcher(stack, job_id).until_text()
    stack.openai().responses.cancel(job_id)
    events = watcher.all(10)
    assert (events[-1]["type"], events[-1]["response"]["status"]) == ("response.failed", "cancelled")
    accepted_by_the_helper(events)
    assert Watcher(stack, job_id).all() == events


def test_a_lost_attempts_items_come_to_nothing_and_the_sequence_goes_on(stack: Stack) -> None:
    job_id = begin(
        stack, f'[[sim: stream-error text="{TEXT}" chunk=3 every=0.05, then full text="{TEXT}" chunk=3]] Count.'
    )
    events = Watcher(stack, job_id).all()
    done = [each for each in events if each["type"] == "response.output_item.done"]
    assert [each["output_index"] for each in done] == [0, 1, 2, 3]
    assert (done[1]["item"]["status"], done[1]["item"]["content"]) == ("completed", [])
    assert [each["item"]["id"] for each in done[2:]] == [each["id"] for each in events[-1]["response"]["output"]]
    accepted_by_the_helper(events)


def test_a_killed_worker_costs_an_attempt_and_no_event(stack: Stack) -> None:
    job_id = begin(stack, SLOW)
    watcher = Watcher(stack, job_id).until_text()
    worker = stack.worker_processes.pop()
    worker.kill()
    stack.worker_processes.append(stack.start_worker())
    events = watcher.all(60)
    assert len(stack.calls(job_id)) == 2
    accepted_by_the_helper(events)
    assert Watcher(stack, job_id).all() == events


def test_a_flushed_redis_costs_seconds_and_no_event(stack: Stack, valkey_of_module: ValkeyServer) -> None:
    job_id = begin(stack, SLOW)
    watcher = Watcher(stack, job_id).until_text()
    valkey_of_module.flush()
    watching_later = Watcher(stack, job_id, 2)
    valkey_of_module.flush()
    events = watcher.all()
    assert watching_later.all() == events[3:]
    assert watcher.text == TEXT
    assert len(stack.calls(job_id)) == 1


def test_redis_holds_nothing_of_an_answer(stack: Stack, valkey_of_module: ValkeyServer) -> None:
    with valkey_of_module.client() as client, client.monitor() as monitor:
        Watcher(stack, begin(stack, '[[sim: full text="xyzzy plugh plover" chunk=20]] Say.')).all()
        client.set("the-end", "1")
        for received in monitor.listen():
            assert "plugh" not in str(received["command"])
            if "the-end" in str(received["command"]):
                break


def test_it_goes_on_over_a_restart_of_everything(stack: Stack, valkey_of_module: ValkeyServer) -> None:
    before = begin(stack, PROMPT)
    whole = Watcher(stack, before).all()
    job_id = begin(stack, SLOW)
    watcher = Watcher(stack, job_id).until_text()
    stack.api.kill()
    stack.worker_processes.pop().kill()
    valkey_of_module.flush()
    stack.start_api()
    stack.worker_processes.append(stack.start_worker())
    events = watcher.all(60)
    accepted_by_the_helper(events)
    assert Watcher(stack, before, 5).all() == whole[6:]


def test_an_sdk_whose_stream_is_cut_buys_nothing_again(stack: Stack) -> None:
    with stack.openai().responses.create(model=MODEL, input=SLOW, stream=True) as events:
        created = next(iter(events))
        assert created.type == "response.created"
        job_id = created.response.id
        Watcher(stack, job_id).until_text()
        stack.api.kill()
        with pytest.raises(openai.APIError):
            list(events)
    stack.start_api()
    assert Watcher(stack, job_id).all()[-1]["type"] == "response.completed"
    with stack.http() as http:
        newest = http.get("/responses", params={"limit": 1}).json()["data"][0]["id"]
    assert (newest, len(stack.calls(job_id))) == (job_id, 1)


@pytest.mark.parametrize("stream", [True, False])
def test_an_sdk_that_sees_a_failure_is_not_billed_again(stack: Stack, *, stream: bool) -> None:
    before = len(stack.calls())
    client = stack.openai()
    body: Any = {"model": MODEL, "input": "[[sim: 500 billed=yes]] Hello", "extra_body": {"max_attempts": 1}}
    if stream:
        with client.responses.create(stream=True, **body) as events:
            assert list(events)[-1].type == "response.failed"
    else:
        with pytest.raises(openai.BadRequestError):
            client.responses.create(**body)
    assert len(stack.calls()) - before == 1
