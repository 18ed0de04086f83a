"""Server-sent events: live, resumed, replayed, through the helper, and down to the wire."""

import json
from collections.abc import Iterable
from itertools import groupby
from typing import Any

import openai
from openai.types.responses import Response
from pydantic import BaseModel

from tests.sdk.python.errors import refusal
from tests.sdk.python.parameters import WEATHER
from tests.sdk.python.responses import poll, submit
from tests.sdk.python.user import MODEL, Facts, User, scenario

SLOWLY = "full text=abcdefghijklmnopqrstuvwxyz chunk=2 every=0.05"


def told(events: Iterable[Any], first: int = 0) -> Facts:
    """What a stream told; `types` without repetitions."""
    seen = list(events)
    return {
        "types": [kind for kind, _ in groupby(event.type for event in seen)],
        "gapless": [event.sequence_number for event in seen] == list(range(first, first + len(seen))),
        "text": "".join(event.delta for event in seen if event.type == "response.output_text.delta"),
        "end": [seen[-1].type, seen[-1].response.status],
    }


@scenario
def stream(user: User) -> Facts:
    prompt = user.prompt('full text="Word by word."')
    events = list(user.client().responses.create(model=MODEL, input=prompt, stream=True))
    final: Any = events[-1]
    return {
        **told(events),
        "final_text": final.response.output_text,
        "one_id": len({event.response.id for event in events if hasattr(event, "response")}),
        "usage": final.response.usage.output_tokens > 0,
        "billed_calls": user.billed_calls(prompt),
    }


@scenario
def stream_in_the_background_and_resume(user: User) -> Facts:
    client = user.client()
    prompt = user.prompt(SLOWLY)
    seen: list[Any] = []
    response_id = ""
    with client.responses.create(model=MODEL, input=prompt, background=True, stream=True) as events:
        for event in events:
            seen.append(event)
            if event.type == "response.created":
                response_id = event.response.id
            if event.type == "response.in_progress":
                break
    cursor = seen[-1].sequence_number
    rest = list(client.responses.retrieve(response_id, stream=True, starting_after=cursor))
    return {
        **told([*seen, *rest]),
        "resumed_at": rest[0].sequence_number - cursor,
        "background": rest[-1].response.background,  # type: ignore[union-attr]
        "billed_calls": user.billed_calls(prompt),
    }


@scenario
def stream_replayed_after_the_end(user: User) -> Facts:
    client = user.client()
    live = list(client.responses.create(model=MODEL, input=user.prompt(SLOWLY), background=True, stream=True))
    response_id = live[0].response.id  # type: ignore[union-attr]
    replay = list(client.responses.retrieve(response_id, stream=True))
    cursor = len(live) // 2
    half = list(client.responses.retrieve(response_id, stream=True, starting_after=cursor))
    return {
        **told(replay),
        "same": [each.to_dict() for each in replay] == [each.to_dict() for each in live],
        "half": [each.to_dict() for each in half] == [each.to_dict() for each in live[cursor + 1 :]],
    }


@scenario
def stream_of_a_response_that_was_not_streamed(user: User) -> Facts:
    done = poll(user, submit(user, "full text=Polled."))
    return told(user.client().responses.retrieve(done.id, stream=True))


@scenario
def stream_helper(user: User) -> Facts:
    kinds = []
    with user.client().responses.stream(model=MODEL, input=user.prompt('full text="With help."')) as events:
        kinds = [kind for kind, _ in groupby(event.type for event in events)]
        final = events.get_final_response()
    return {"first": kinds[0], "last": kinds[-1], "text": final.output_text, "status": final.status}


@scenario
def stream_helper_until_done(user: User) -> Facts:
    with user.client().responses.stream(model=MODEL, input=user.prompt("many-items items=3")) as events:
        final = events.until_done().get_final_response()
    return {"types": [item.type for item in final.output], "text": final.output_text}


@scenario
def stream_helper_by_id(user: User) -> Facts:
    client = user.client()
    with client.responses.stream(model=MODEL, input=user.prompt(SLOWLY), background=True) as events:
        for event in events:
            if event.type == "response.in_progress":
                break
    response_id = event.response.id  # type: ignore[union-attr]
    with client.responses.stream(response_id=response_id, starting_after=3) as again:
        numbers = [event.sequence_number for event in again]
        final = again.get_final_response()
    return {"first": numbers[0], "text": final.output_text, "same_id": final.id == response_id}


class Answer(BaseModel):
    answer: int


@scenario
def stream_helper_structured(user: User) -> Facts:
    text = json.dumps(json.dumps({"answer": 42}))
    with user.client().responses.stream(
        model=MODEL, input=user.prompt(f"json text={text}"), text_format=Answer
    ) as events:
        final = events.get_final_response()
    assert final.output_parsed is not None
    return {"answer": final.output_parsed.answer}


@scenario
def stream_of_a_tool_call(user: User) -> Facts:
    tools: Any = [WEATHER]
    prompt = user.prompt('tool-call name=weather arguments="{\\"city\\": \\"Oslo\\"}"')
    with user.client().responses.stream(model=MODEL, input=prompt, tools=tools) as events:
        kinds = [event.type for event in events]
        final = events.get_final_response()
    [call] = [item for item in final.output if item.type == "function_call"]
    return {
        "arguments": json.loads(call.arguments),
        "delta": "response.function_call_arguments.delta" in kinds,
        "done": "response.function_call_arguments.done" in kinds,
    }


def streamed(user: User, directive: str, **body: Any) -> list[Any]:
    return list(user.client().responses.create(model=MODEL, input=user.prompt(directive), stream=True, extra_body=body))


@scenario
def stream_that_fails(user: User) -> Facts:
    events = streamed(user.lenient(), "400-value")
    return {**told(events), "code": events[-1].response.error.code}


@scenario
def stream_that_is_cut(user: User) -> Facts:
    events = streamed(user, "incomplete text=Once")
    return {**told(events), "reason": events[-1].response.incomplete_details.reason}


@scenario
def stream_that_is_cancelled(user: User) -> Facts:
    client = user.client()
    events = []
    for event in client.responses.create(model=MODEL, input=user.prompt("full delay=60"), background=True, stream=True):
        events.append(event)
        if event.type == "response.in_progress":
            client.responses.cancel(event.response.id)
    return told(events)


@scenario
def stream_that_is_deleted(user: User) -> Facts:
    client = user.client()
    events = client.responses.create(model=MODEL, input=user.prompt("full delay=60"), background=True, stream=True)
    try:
        for event in events:
            if event.type == "response.in_progress":
                client.responses.delete(event.response.id)
    except openai.APIError as error:
        return {"class": type(error).__name__, "code": error.code, "message": "not found" in error.message}
    return {}


@scenario
def stream_of_unknown_items(user: User) -> Facts:
    return told(streamed(user.lenient(), "unknown-items text=New."))


@scenario
def final_response_of_a_failed_stream(user: User) -> Facts:
    facts: Facts = {}
    for name, directive in (("failed", "400-value"), ("incomplete", "incomplete text=Once")):
        try:
            with user.lenient().client().responses.stream(model=MODEL, input=user.prompt(directive)) as events:
                final: Response = events.get_final_response()
            facts[name] = final.status
        except RuntimeError as error:
            facts[name] = type(error).__name__
    return facts


@scenario
def refused_before_it_streams(user: User) -> Facts:
    client = user.client()
    return refusal(lambda: list(client.responses.create(model=MODEL, input="x", stream=True, max_output_tokens=3)))
