"""Tool loops of three turns with a provider that has OpenAI's rules: it refuses nothing that is sent back."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai.types.responses import Response

from jobs.request_fields import ENCRYPTED_REASONING
from tests.support.stack import Stack
from tests.support.valkey import ValkeyServer

Json = dict[str, Any]

THINKS, FORGETS = "openai/o3-pro", "acme/thinker"
"""The first model returns encrypted reasoning if asked; the second is not known to reason."""
TOOL: Any = {"type": "function", "name": "look", "parameters": {"type": "object"}, "strict": False}
LONG = "call_" + "x" * 100
ASKED = '[[sim: tool-call name=look arguments="{}"]] Look around.'
AGAIN = '[[sim: tool-call name=look arguments="{}"]] A door.'
DONE = "[[sim: full text=Done.]] A garden."
WAYS = ("previous_response_id", "items", "items of a tidy client", "items without reasoning", "item_reference")


@contextmanager
def a_stack(data_dir: Path, dialect: str) -> Iterator[Stack]:
    models = f"{THINKS},{FORGETS}"
    environment = {
        "BACKBURNER_PROVIDER_DIALECT": dialect,
        "BACKBURNER_PROVIDER_TRANSPORT": "stream",
        "BACKBURNER_PROVIDER_IDS": "refuse",
        "BACKBURNER_MODELS": models,
    }
    flags = ("--rules", "openai", "--models", models)
    url = f"sqlite:///{data_dir}/backburner.db"
    with ValkeyServer() as valkey, Stack(url, valkey.url, data_dir, environment, 1, flags) as stack:
        yield stack


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with a_stack(tmp_path_factory.mktemp("stack"), "openai") as stack:
        yield stack


@pytest.fixture(scope="module")
def strict_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with a_stack(tmp_path_factory.mktemp("strict"), "strict") as stack:
        yield stack


def ask(stack: Stack, model: str, input_: Any, **fields: Any) -> Response:
    client = stack.clients[0] if stack.clients else stack.openai(max_retries=0)
    response: Response = client.responses.create(model=model, input=input_, tools=[TOOL], **fields)
    return response


def sent(stack: Stack, response_id: str) -> list[Json]:
    """The input of the one call for a response."""
    query = {"client_request_id_prefix": response_id, "bodies": "true"}
    [call] = httpx.get(f"{stack.provider_url}/_calls", params=query).json()["calls"]
    items: list[Json] = json.loads(call["body"])["input"]
    return items


def call_of(response: Response) -> Any:
    [call] = [item for item in response.output if item.type == "function_call"]
    return call


def result(call: Any, output: str) -> Json:
    return {"type": "function_call_output", "call_id": call.call_id, "output": output}


def as_sent_back(item: Any, way: str) -> Json:
    if way == "item_reference":
        return {"type": "item_reference", "id": item.id}
    whole: Json = item.model_dump(exclude_none=way == "items of a tidy client")
    return whole


def three_turns(stack: Stack, way: str, model: str, **fields: Any) -> list[Response]:
    responses = [ask(stack, model, ASKED, **fields)]
    history: list[Any] = [{"role": "user", "content": ASKED}]
    for output in (AGAIN, DONE):
        last = responses[-1]
        answer = result(call_of(last), output)
        if way == "previous_response_id":
            responses.append(ask(stack, model, [answer], previous_response_id=last.id, **fields))
            continue
        kept = [item for item in last.output if way != "items without reasoning" or item.type != "reasoning"]
        history += [as_sent_back(item, way) for item in kept] + [answer]
        responses.append(ask(stack, model, history, **fields))
    assert responses[-1].output_text == "Done."
    return responses


@pytest.mark.parametrize("asks", [False, True], ids=["unasked", "asked for"])
@pytest.mark.parametrize("model", [THINKS, FORGETS])
@pytest.mark.parametrize("way", WAYS)
def test_a_loop_of_three_turns(stack: Stack, way: str, model: str, asks: bool) -> None:
    responses = three_turns(stack, way, model, **({"include": [ENCRYPTED_REASONING]} if asks else {}))
    body = sent(stack, responses[-1].id)
    kinds = [item.get("type", "message") for item in body]
    keeps = way != "items without reasoning" and (model == THINKS or asks)
    thought = ["reasoning"] if keeps else []
    assert kinds == ["message", *2 * [*thought, "function_call", "function_call_output"]]
    assert all("encrypted_content" in item for item in body if item.get("type") == "reasoning")
    assert all(("id" in item) == keeps for item in body if item.get("type") == "function_call")
    shown = [item for each in responses for item in each.output if item.type == "reasoning"]
    assert len(shown) == 3
    assert all(bool(item.encrypted_content) == asks for item in shown)


@pytest.mark.parametrize("asks", [False, True], ids=["unasked", "asked for"])
def test_a_stream_tells_encrypted_reasoning_to_those_alone_who_asked(stack: Stack, asks: bool) -> None:
    include = [ENCRYPTED_REASONING] if asks else []
    body = {"model": THINKS, "input": "[[sim: full]] Hello", "include": include, "stream": True}
    with stack.http() as http:
        answer = http.post("/responses", json=body).raise_for_status()
        response_id = answer.headers["openai-response-id"]
        replayed = http.get(f"/responses/{response_id}", params={"stream": True})
    for reported in (answer.text, replayed.text):
        assert reported.count('"type":"reasoning"') >= 3
        assert ("gAAAAA" in reported) == asks
    followed = ask(stack, THINKS, "And?", previous_response_id=response_id)
    assert sent(stack, followed.id)[1]["type"] == "reasoning"


@pytest.mark.parametrize("way", WAYS)
def test_a_loop_in_the_strict_form(strict_stack: Stack, way: str) -> None:
    """The strict form asks for ids where OpenAI does not."""
    responses = three_turns(strict_stack, way, THINKS)
    followed = ask(strict_stack, THINKS, "And?", previous_response_id=responses[-1].id)
    assert followed.status == "completed"


def test_an_incomplete_turn_can_be_followed(stack: Stack) -> None:
    """Reasoning that led to nothing: OpenAI refuses it without the item that followed."""
    cut = ask(stack, THINKS, '[[sim: incomplete text=""]] Think.')
    done = ask(stack, THINKS, "[[sim: full text=Done.]] Go on.", previous_response_id=cut.id)
    assert done.output_text == "Done."
    items = [each.model_dump(exclude_none=True) for each in cut.output if each.type == "reasoning"]
    history: list[Any] = [{"role": "user", "content": "Think."}, *items]
    again = ask(stack, THINKS, [*history, {"role": "user", "content": "[[sim: full text=Done.]] Go on."}])
    assert again.output_text == "Done."
    assert [item["role"] for item in sent(stack, again.id)] == ["user", "user"]


def test_what_a_client_names_at_too_great_a_length_is_sent_under_a_shorter_name(stack: Stack) -> None:
    history: list[Any] = [
        {"role": "user", "content": "Look around.", "id": "question-1"},
        {"type": "function_call", "id": LONG, "call_id": LONG, "name": "look", "arguments": "{}", "status": None},
        {"type": "function_call_output", "call_id": LONG, "output": DONE},
    ]
    done = ask(stack, THINKS, history)
    assert done.output_text == "Done."
    _, call, output = sent(stack, done.id)
    assert call["call_id"] == output["call_id"]
    assert len(call["call_id"]) <= 64
    listed = stack.clients[0].responses.input_items.list(done.id, order="asc").data
    assert [item.model_dump()["call_id"] for item in listed[1:]] == [LONG, LONG]
    followed = ask(stack, THINKS, "And?", previous_response_id=done.id)
    assert [item.get("call_id") for item in sent(stack, followed.id)[1:3]] == [call["call_id"]] * 2


def test_a_number_beyond_any_double_reaches_the_provider(stack: Stack) -> None:
    numbers = b"79228162514264337593543950335, 0.10000000000000000555, 1e400"
    tool = b'{"type":"function","name":"look","parameters":{"type":"object","enum":[' + numbers + b"]}}"
    body = b'{"model":"%s","input":"Hello","tools":[%s]}' % (THINKS.encode(), tool)
    with stack.http() as http:
        answer = http.post("/responses", content=body, headers={"content-type": "application/json"})
        answer.raise_for_status()
        kept = http.get(f"/responses/{answer.json()['id']}")
    [call] = httpx.get(f"{stack.provider_url}/_calls?bodies=true").json()["calls"][-1:]
    for text in (call["body"], answer.text, kept.text):
        assert numbers.decode().replace(" ", "") in text
