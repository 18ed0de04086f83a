"""Open Responses: the cases of its compliance suite that need no socket, compaction or conversation, and every status.

Each answer is checked whole against `tests.support.open_responses`. The suite itself asks less of a stream.
"""

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.support.open_responses import (
    DONE,
    StreamRead,
    assert_failure,
    assert_items_are_complete,
    assert_response,
    read_stream,
)
from tests.support.stack import API_KEY, MODEL, Stack
from tests.support.valkey import ValkeyServer

pytestmark = pytest.mark.one_database

Json = dict[str, Any]

HEART = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
)
WEATHER: Json = {
    "type": "function",
    "name": "get_weather",
    "description": "Get the current weather for a location",
    "parameters": {
        "type": "object",
        "properties": {"location": {"type": "string", "description": "The city and state"}},
        "required": ["location"],
    },
}
CALL = 'tool-call name=get_weather arguments="{\\"location\\":\\"San Francisco, CA\\"}"'


def message(role: str, content: Any, **more: Any) -> Json:
    return {"type": "message", "role": role, "content": content, **more}


@dataclass(frozen=True)
class Case:
    """A request of the suite, with the provider's part in its last text; `types` are the output's kinds."""

    input: Any
    script: str = "full text=Done."
    fields: Json = field(default_factory=dict)
    makes: str = "message"

    @property
    def body(self) -> Json:
        return {"model": MODEL, "input": self.input, **self.fields}


def case(*items: Json, script: str = "full text=Done.", makes: str = "message", **fields: Any) -> Case:
    reported = f"[[sim: {script}]] "
    *before, last = items
    content = last["content"]
    content = reported + content if isinstance(content, str) else [{"type": "input_text", "text": reported}, *content]
    return Case([*before, {**last, "content": content}], script, fields, makes)


CASES = {
    "basic text": case(message("user", "Say hello in exactly 3 words.")),
    "a string": Case("[[sim: full text=Done.]] Say hello in exactly 3 words."),
    "assistant phase": case(
        message("assistant", "I should answer with the saved number.", phase="commentary"),
        message("assistant", "The number is four.", phase="final_answer"),
        message("user", "Repeat only the number."),
    ),
    "system prompt": case(
        message("system", "You are a pirate. Always respond in pirate speak."), message("user", "Say hello.")
    ),
    "multi-turn": case(
        message("user", "My name is Alice."),
        message("assistant", "Hello Alice! Nice to meet you. How can I help you today?"),
        message("user", "What is my name?"),
    ),
    "tool calling": case(
        message("user", "What's the weather like in San Francisco?"),
        script=CALL,
        makes="function_call",
        tools=[WEATHER],
    ),
    "tool result": case(
        message("user", "What's the weather like in San Francisco?"),
        {"type": "function_call", "call_id": "call_1", "name": "get_weather", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "call_1", "output": "64 degrees and clear"},
        message("user", "So?"),
        tools=[WEATHER],
    ),
    "image input": case(
        message(
            "user",
            [
                {"type": "input_text", "text": "What do you see in this image? Answer in one sentence."},
                {"type": "input_image", "image_url": HEART},
            ],
        )
    ),
    "file input": case(
        message(
            "user", [{"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERg=="}]
        )
    ),
    "refusal": case(message("user", "How does one do wrong?"), script="refusal"),
    "structured output": case(
        message("user", "A number."),
        script="json",
        text={"format": {"type": "json_schema", "name": "number", "schema": {"type": "object"}}},
    ),
}
each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


@pytest.fixture(scope="module", params=["plain", "stream"])
def stack(
    request: pytest.FixtureRequest, database_url_of_module: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    environment = {"BACKBURNER_PROVIDER_TRANSPORT": request.param}
    data_dir = tmp_path_factory.mktemp("stack")
    with ValkeyServer() as valkey, Stack(database_url_of_module, valkey.url, data_dir, environment) as stack:
        yield stack


@pytest.fixture
def http(stack: Stack) -> Iterator[httpx.Client]:
    with stack.http() as http:
        yield http


def created(http: httpx.Client, body: Json) -> Json:
    answer = http.post("/responses", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("application/json")
    response: Json = answer.json()
    return response


def streamed(http: httpx.Client, body: Json) -> StreamRead:
    with http.stream("POST", "/responses", json={**body, "stream": True}) as answer:
        return read_stream(answer)


@each_case
def test_a_response(http: httpx.Client, case: Case) -> None:
    response = created(http, case.body)
    assert_response(response, "completed")
    assert case.makes in {item["type"] for item in response["output"]}
    assert response["completed_at"] >= response["created_at"]


@each_case
def test_a_stream(http: httpx.Client, case: Case) -> None:
    reported = streamed(http, case.body)
    assert reported.types[:3] == ["response.created", "response.queued", "response.in_progress"]
    statuses = [event["response"]["status"] for event in reported.events[:3]]
    assert statuses == ["queued", "queued", "in_progress"]
    assert reported.types[-1] == "response.completed"
    for event in reported.events:
        if "response" in event:
            assert_response(event["response"])
    assert_response(reported.response, "completed")
    assert_items_are_complete(reported)
    assert case.makes in {item["type"] for item in reported.response["output"]}
    assert reported.response == http.get(f"/responses/{reported.response['id']}").json()


def test_a_streamed_tool_call(http: httpx.Client) -> None:
    reported = streamed(http, CASES["tool calling"].body)
    [call] = [item for item in reported.response["output"] if item["type"] == "function_call"]
    assert json.loads(call["arguments"]) == {"location": "San Francisco, CA"}
    assert reported.of("response.function_call_arguments.delta")
    [done] = reported.of("response.function_call_arguments.done")
    assert done["arguments"] == call["arguments"]
    added = [event["item"]["type"] for event in reported.of("response.output_item.added")]
    assert "function_call" in added


def test_a_tool_call_goes_round(http: httpx.Client) -> None:
    called = created(http, CASES["tool calling"].body)
    [call] = [item for item in called["output"] if item["type"] == "function_call"]
    result = {"type": "function_call_output", "call_id": call["call_id"], "output": "[[sim: full text=Sunny.]] 64"}
    done = created(http, {"model": MODEL, "tools": [WEATHER], "previous_response_id": called["id"], "input": [result]})
    assert_response(done, "completed")
    assert done["previous_response_id"] == called["id"]
    assert done["output"][-1]["content"][0]["text"] == "Sunny."


def test_what_leaves_goes_back_in(http: httpx.Client) -> None:
    """Items are bidirectional: an output is an input as it stands."""
    first = CASES["basic text"].body
    output = created(http, first)["output"]
    again = case(*first["input"], *output, message("user", "And now?"))
    assert_response(created(http, again.body), "completed")


def statuses(stack: Stack, http: httpx.Client) -> dict[str, str]:
    """Create a response in each status."""
    scripts = {
        "completed": "full",
        "failed": "400",
        "incomplete": "incomplete text=Half",
        "in_progress": "full delay=60",
    }
    ids = {status: stack.submit(f"[[sim: {script}]] x") for status, script in scripts.items()}
    ids["cancelled"] = stack.submit("[[sim: full delay=60]] x")
    ids["queued"] = stack.submit("x", run_at=time.time() + 3600)
    http.post(f"/responses/{ids['cancelled']}/cancel").raise_for_status()
    for status, job_id in ids.items():
        stack.await_all([job_id], status, 30)
    return ids


def test_every_status_has_every_key_and_no_null_where_none_may_be(stack: Stack, http: httpx.Client) -> None:
    ids = statuses(stack, http)
    for status, job_id in ids.items():
        assert_response(http.get(f"/responses/{job_id}").json(), status)
    for response in http.get("/responses", params={"limit": 100}).json()["data"]:
        assert_response(response)
    shown = {status: http.get(f"/responses/{job_id}").json() for status, job_id in ids.items()}
    assert {status for status, each in shown.items() if each["error"]} == {"failed"}
    assert {status for status, each in shown.items() if each["incomplete_details"]} == {"incomplete"}
    assert {status for status, each in shown.items() if not each["completed_at"]} == {"queued", "in_progress"}
    http.post(f"/responses/{ids['in_progress']}/cancel").raise_for_status()


def test_unset_fields_are_returned_with_their_defaults(http: httpx.Client) -> None:
    body = {"model": MODEL, "input": "[[sim: full delay=60]] x", "background": True}
    accepted = created(http, body)
    assert_response(accepted, "queued")
    defaults: Json = {
        "temperature": 1,
        "top_p": 1,
        "presence_penalty": 0,
        "frequency_penalty": 0,
        "top_logprobs": 0,
        "store": True,
        "background": True,
        "service_tier": "default",
        "truncation": "disabled",
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "text": {"format": {"type": "text"}},
        "metadata": {},
    }
    assert {name: accepted[name] for name in defaults} == defaults
    http.post(f"/responses/{accepted['id']}/cancel").raise_for_status()


def test_set_fields_are_returned_as_sent(http: httpx.Client) -> None:
    asked: Json = {
        "temperature": 0.25,
        "top_p": 0.5,
        "presence_penalty": 0.5,
        "frequency_penalty": -0.5,
        "top_logprobs": 2,
        "store": False,
        "truncation": "auto",
        "parallel_tool_calls": False,
        "max_output_tokens": 4096,
        "max_tool_calls": 3,
        "safety_identifier": "user-1",
        "prompt_cache_key": "cache-1",
        "instructions": "Be brief.",
        "metadata": {"ticket": "4711"},
    }
    bare = {"type": "function", "name": "bare"}
    chosen = {"type": "allowed_tools", "tools": [{"type": "function", "name": "get_weather"}]}
    more = {
        "reasoning": {"effort": "low"},
        "text": {"verbosity": "low"},
        "tools": [WEATHER, bare],
        "tool_choice": chosen,
    }
    response = created(http, {**CASES["basic text"].body, **asked, **more})
    assert_response(response, "completed")
    assert {name: response[name] for name in asked} == asked
    assert response["reasoning"] == {"effort": "low", "summary": None}
    assert response["text"] == {"format": {"type": "text"}, "verbosity": "low"}
    assert response["tool_choice"] == {**chosen, "mode": "auto"}
    assert [tool["name"] for tool in response["tools"]] == ["get_weather", "bare"]
    assert (response["tools"][1]["description"], response["tools"][1]["parameters"]) == (None, None)


@pytest.mark.parametrize(
    ("script", "status"), [("400", "failed"), ("failed", "failed"), ("incomplete text=Half", "incomplete")]
)
def test_a_stream_that_does_not_complete_ends_with_its_status_and_is_done(
    http: httpx.Client, script: str, status: str
) -> None:
    body = {"model": MODEL, "input": f"[[sim: {script}]] x", "max_attempts": 1}
    reported = streamed(http, body)
    assert reported.types[-1] == f"response.{status}"
    assert_response(reported.response, status)
    if status == "incomplete":
        assert reported.response["output"][-1]["status"] == "incomplete"


def test_a_stream_whose_response_is_cancelled_ends_with_it_and_is_done(http: httpx.Client) -> None:
    body = {**case(message("user", "x"), script="full delay=60").body, "background": True, "stream": True}
    with http.stream("POST", "/responses", json=body) as answer:
        http.post(f"/responses/{answer.headers['openai-response-id']}/cancel").raise_for_status()
        reported = read_stream(answer)
    assert reported.types[-1] == "response.failed"
    assert_response(reported.response, "cancelled")


def test_an_attempt_that_is_lost_midway_leaves_nothing_incomplete_in_what_completes(http: httpx.Client) -> None:
    script = 'stream-error text="one two three four five six seven" chunk=4, then full text=Done.'
    reported = streamed(http, case(message("user", "Count."), script=script).body)
    assert_response(reported.response, "completed")
    assert not [each for each in reported.of("response.output_item.done") if each["item"].get("status") == "incomplete"]


def test_a_stream_whose_response_is_deleted_ends_with_an_error_and_is_done(http: httpx.Client) -> None:
    with http.stream(
        "POST", "/responses", json={**case(message("user", "x"), script="full delay=60").body, "stream": True}
    ) as answer:
        job_id = answer.headers["openai-response-id"]
        http.delete(f"/responses/{job_id}").raise_for_status()
        reported = read_stream(answer)
    assert "error" in reported.types


def test_a_stream_is_written_frame_by_frame(stack: Stack) -> None:
    """No write ends within a frame: the suite's own reader, as others, drops one that comes in two."""
    address = urlsplit(stack.url)
    body = json.dumps({**CASES["basic text"].body, "stream": True}).encode()
    head = (
        f"POST /v1/responses HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {API_KEY}\r\nconnection: close\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection((address.hostname or "", address.port or 0), timeout=30) as connection:
        connection.sendall(head.encode() + body)
        answer = b"".join(iter(lambda: connection.recv(65_536), b""))
    written = list(chunks(answer.partition(b"\r\n\r\n")[2]))
    assert len(written) > 1
    assert all(each.endswith(b"\n\n") for each in written)
    assert written[-1].endswith(f"data: {DONE}\n\n".encode())


def chunks(body: bytes) -> Iterator[bytes]:
    """Return each write of the server as one piece."""
    while body:
        size, _, rest = body.partition(b"\r\n")
        length = int(size, 16)
        if length:
            yield rest[:length]
        body = rest[length + 2 :]


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/responses", {"model": MODEL, "input": 3}, 400),
        ("POST", "/responses", {"model": "nobody/nothing", "input": "x"}, 404),
        ("POST", "/responses", {"model": MODEL, "input": "x", "previous_response_id": "resp_none"}, 400),
        ("POST", "/responses", {"model": MODEL, "input": "[[sim: 400]] x", "stream": False}, 400),
        ("GET", "/responses/resp_none", None, 404),
    ],
)
def test_failures_are_returned_as_errors(
    http: httpx.Client, method: str, path: str, body: Json | None, status: int
) -> None:
    assert_failure(http.request(method, path, json=body), status)


def test_without_a_key_the_error_has_the_same_shape(stack: Stack) -> None:
    with contextlib.closing(httpx.Client(base_url=stack.base_url, trust_env=False)) as nobody:
        assert_failure(nobody.post("/responses", json=CASES["basic text"].body), 401)
