"""Conversations end to end: the SDK's own calls, a real worker, and the bodies that the provider got."""

import itertools
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest
from openai.types.responses import Response
from pydantic import BaseModel

from tests.chaos.proxy import Proxy
from tests.e2e.trip import create, error_code, facts, poll, run
from tests.support.stack import API_KEY, MODEL, Stack
from tests.support.valkey import ValkeyServer
from tests.support.waiting import await_until

Json = dict[str, Any]

WEATHER: Any = {
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
PICTURE = "data:image/png;base64,iVBORw0KGgo="
PAPER = "data:application/pdf;base64,JVBERg=="


@pytest.fixture(scope="module")
def stack(database_url_of_module: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    data_dir = tmp_path_factory.mktemp("stack")
    environment = {"BACKBURNER_TRUNCATION_ON_OVERFLOW": "auto", "BACKBURNER_PROVIDER_DIALECT": "openai"}
    with ValkeyServer() as valkey, Stack(database_url_of_module, valkey.url, data_dir, environment) as stack:
        yield stack


def sent(stack: Stack, response: Response) -> list[Json]:
    """The bodies of all calls for a response, first to last."""
    query = {"client_request_id_prefix": response.id, "bodies": "true"}
    calls = httpx.get(f"{stack.provider_url}/_calls", params=query).json()["calls"]
    return [json.loads(call["body"]) for call in calls]


def asked(text: str) -> Json:
    return {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}


def test_a_follow_up_is_sent_with_all_that_came_before(stack: Stack) -> None:
    first = run(stack, "[[sim: full text=One.]] First?", instructions="Only for the first.")
    second = run(stack, "[[sim: full text=Two.]] Second?", previous_response_id=first.id, reasoning={"effort": "high"})
    third = run(stack, "[[sim: full text=Three.]] Third?", previous_response_id=second.id)
    assert (third.output_text, third.previous_response_id) == ("Three.", second.id)
    [body] = sent(stack, third)
    # The reasoning goes back, encrypted, and behind it stands what it led to, under its own id.
    secret = {item["id"]: item.pop("encrypted_content") for item in body["input"] if item["type"] == "reasoning"}
    assert all(secret.values())
    answers = [[item.model_dump(exclude_none=True) for item in each.output] for each in (first, second)]
    assert [item["id"] for answer in answers for item in answer if item["type"] == "reasoning"] == list(secret)
    assert body["input"] == [
        asked("[[sim: full text=One.]] First?"),
        *answers[0],
        asked("[[sim: full text=Two.]] Second?"),
        *answers[1],
        asked("[[sim: full text=Three.]] Third?"),
    ]
    # neither instructions nor settings are inherited
    assert body.keys() == {"model", "input", "truncation", "stream", "include"}
    assert facts(third)["conversation"] == {"responses": 3, "items": 7}
    assert facts(first)["conversation"] is None
    listed = stack.openai().responses.input_items.list(third.id, order="asc").data
    assert [item.type for item in listed] == ["message", *2 * ["reasoning", "message", "message"]]


def test_what_a_provider_made_up_does_not_spoil_the_next_turn(stack: Stack) -> None:
    first = run(stack, "[[sim: unknown-items]] Hello")
    assert "future_call" in {item.type for item in first.output}
    second = run(stack, "And now?", previous_response_id=first.id)
    assert second.status == "completed"


def test_a_tool_call_goes_round(stack: Stack) -> None:
    client = stack.openai()
    called = client.responses.create(
        model=MODEL,
        input='[[sim: tool-call name=weather arguments="{\\"city\\":\\"Lisbon\\"}"]] Weather in Lisbon?',
        tools=[WEATHER],
        tool_choice={"type": "function", "name": "weather"},
        parallel_tool_calls=False,
    )
    [call] = [item for item in called.output if item.type == "function_call"]
    assert json.loads(call.arguments) == {"city": "Lisbon"}
    done = client.responses.create(
        model=MODEL,
        previous_response_id=called.id,
        tools=[WEATHER],
        input=[{"type": "function_call_output", "call_id": call.call_id, "output": "[[sim: full text=Sunny.]] 25"}],
    )
    assert done.output_text == "Sunny."
    first, second = sent(stack, called)[0], sent(stack, done)[0]
    assert (first["tools"], first["tool_choice"]) == ([WEATHER], {"type": "function", "name": "weather"})
    kinds = [item["type"] for item in second["input"]]
    assert kinds == ["message", "reasoning", "function_call", "function_call_output"]
    assert second["input"][2]["call_id"] == second["input"][3]["call_id"] == call.call_id
    assert "tool_choice" not in second


@pytest.mark.parametrize(
    "choice",
    [
        "none",
        "auto",
        {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "weather"}]},
        {"type": "web_search_preview"},
        {"type": "mcp", "server_label": "docs"},
        {"type": "custom", "name": "grep"},
    ],
    ids=lambda choice: choice if isinstance(choice, str) else choice["type"],
)
def test_every_form_of_tool_choice_goes_out_and_comes_back(stack: Stack, choice: Any) -> None:
    done = stack.openai().responses.create(model=MODEL, input="Hello", tools=[WEATHER], tool_choice=choice)
    assert sent(stack, done)[0]["tool_choice"] == choice
    shown = done.tool_choice
    assert (shown if isinstance(shown, str) else shown.model_dump(exclude_none=True)) == choice


def test_a_parsed_answer(stack: Stack) -> None:
    class Outfit(BaseModel):
        items: list[str]
        warm: bool

    parsed = stack.openai().responses.parse(model=MODEL, input="[[sim: json]] What to wear?", text_format=Outfit)
    assert isinstance(parsed.output_parsed, Outfit)
    form = sent(stack, parsed)[0]["text"]["format"]
    assert (form["type"], form["name"], form["strict"]) == ("json_schema", "Outfit", True)


def test_pictures_files_and_the_other_fields_go_out_as_they_came(stack: Stack) -> None:
    parts: Any = [
        {"type": "input_text", "text": "[[sim: full text=Seen.]] What is this?"},
        {"type": "input_image", "image_url": PICTURE, "detail": "low"},
        {"type": "input_file", "filename": "a.pdf", "file_data": PAPER},
    ]
    done = stack.openai().responses.create(
        model=MODEL,
        input=[{"role": "user", "content": parts}],
        include=["reasoning.encrypted_content"],
        reasoning={"effort": "low", "summary": "auto"},
        metadata={"ticket": "4711"},
        background=False,
        extra_body={"background_options": {"completion_window": "soonest"}},
    )
    assert (done.output_text, done.metadata) == ("Seen.", {"ticket": "4711"})
    [body] = sent(stack, done)
    assert body["input"] == [{"role": "user", "content": parts}]
    assert body["include"] == ["reasoning.encrypted_content"]
    assert body["reasoning"] == {"effort": "low", "summary": "auto"}
    assert not body.keys() & {"metadata", "background", "background_options"}


def test_a_follow_up_to_a_running_one_waits_for_it(stack: Stack) -> None:
    first = create(stack, "[[sim: full delay=1 text=One.]] First?")
    second = create(stack, "[[sim: full text=Two.]] Second?", previous_response_id=first.id)
    third = create(stack, "[[sim: full text=Three.]] Third?", previous_response_id=second.id)
    assert facts(third)["blocked_by"] == second.id
    done = [poll(stack, each) for each in (first, second, third)]
    assert [each.output_text for each in done] == ["One.", "Two.", "Three."]
    for before, after in itertools.pairwise(done):
        assert before.completed_at is not None
        assert stack.attempts(after.id)[0]["started_at"] >= before.completed_at
    assert facts(done[2])["conversation"] == {"responses": 3, "items": 7}
    assert [len(stack.calls(each.id)) for each in done] == [1, 1, 1]


@pytest.mark.parametrize("end", ["fails", "is cancelled", "is deleted"])
def test_when_what_it_waits_for_brings_nothing_it_fails_without_a_call(stack: Stack, end: str) -> None:
    client = stack.openai()
    first = create(stack, f"[[sim: {'400 delay=1' if end == 'fails' else 'full delay=60'}]] First?")
    second = create(stack, "Second?", previous_response_id=first.id)
    third = create(stack, "Third?", previous_response_id=second.id)
    if end == "is cancelled":
        client.responses.cancel(first.id)
    elif end == "is deleted":
        client.responses.delete(first.id)
    failed, last = poll(stack, second), poll(stack, third)
    code = "previous_response_not_found" if end == "is deleted" else "previous_response_failed"
    assert (failed.status, error_code(failed)) == ("failed", code)
    assert failed.error is not None
    assert first.id in failed.error.message
    assert (last.status, error_code(last)) == ("failed", "previous_response_failed")
    assert stack.calls(second.id) == stack.calls(third.id) == []


def test_a_held_follow_up_whose_forerunner_fails_is_a_bad_request(stack: Stack) -> None:
    first = create(stack, "[[sim: 400 delay=1]] First?")
    with pytest.raises(openai.BadRequestError) as refused:
        stack.openai().responses.create(model=MODEL, input="x", previous_response_id=first.id)
    assert (refused.value.code, refused.value.param) == ("previous_response_failed", "previous_response_id")
    assert refused.value.response.headers["x-should-retry"] == "false"


def test_a_retry_rebuilds_the_conversation(stack: Stack) -> None:
    first = run(stack, "[[sim: full text=One.]] First?")
    second = run(stack, "[[sim: 400, then full text=Two.]] Second?", previous_response_id=first.id)
    assert second.status == "failed"
    with stack.http() as http:
        assert http.post(f"/responses/{second.id}/retry").json()["status"] == "queued"
    done = poll(stack, second)
    assert done.output_text == "Two."
    bodies = sent(stack, second)
    assert bodies[0]["input"] == bodies[1]["input"]
    assert len(bodies[0]["input"]) == 4


def test_a_conversation_that_is_too_long_is_sent_again_whole_to_be_cut(stack: Stack) -> None:
    first = run(stack, "[[sim: full text=One.]] First?")
    done = run(stack, "[[sim: overflow]] Second?", previous_response_id=first.id)
    assert done.status == "completed"
    assert [body["truncation"] for body in sent(stack, done)] == ["disabled", "auto"]
    assert [len(body["input"]) for body in sent(stack, done)] == [4, 4]
    assert facts(done)["truncation_applied"] == "auto"
    assert facts(done)["conversation"] == {"responses": 2, "items": 4}


@pytest.mark.one_database
def test_a_create_whose_server_is_killed_is_billed_once(stack: Stack) -> None:
    """The SDK retries by itself, at another process, which joins the job and holds the answer."""
    with Proxy("api", int(stack.url.rpartition(":")[2])) as proxy:
        killed = stack.api
        stack.start_api()
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{proxy.port}/v1", api_key=API_KEY)
        prompt = f"[[sim: full delay=6 text=Once.]] {time.time_ns()}"
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(client.responses.create, model=MODEL, input=prompt)
            [call] = await_until(
                lambda: [each for each in stack.calls() if each["outcome"] == "running"], 10, "never called"
            )
            proxy._target_port = int(stack.url.rpartition(":")[2])
            killed.kill()
            done = answer.result(30)
    assert done.output_text == "Once."
    assert call["client_request_id"] == f"{done.id}:1"
    assert len(stack.calls(done.id)) == 1
    with stack.http() as http:
        listed = http.get("/responses", params={"created_after": done.created_at}).json()["data"]
    assert [each["id"] for each in listed] == [done.id]
