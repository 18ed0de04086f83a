"""Several turns, tools that are called and answered, structured output, and what went in."""

import json
from typing import Any

from openai.types.responses import Response
from pydantic import BaseModel

from tests.sdk.python.errors import NOBODYS, refusal
from tests.sdk.python.parameters import WEATHER
from tests.sdk.python.responses import far_away, poll, submit
from tests.sdk.python.user import MODEL, Absent, Facts, Json, User, scenario


def said(sent: Json) -> list[list[str]]:
    """Who said what in a body that went to the provider, directives left out."""
    lines = []
    for item in sent["input"]:
        content = item.get("content", item.get("output", item.get("arguments", "")))
        text = content if isinstance(content, str) else "".join(part["text"] for part in content)
        lines.append([item.get("role", item.get("type")), text.rpartition("]] ")[2]])
    return lines


@scenario
def multi_turn(user: User) -> Facts:
    client = user.client()
    first = client.responses.create(model=MODEL, input="[[sim: full text=One.]] 1?", instructions="Count.")
    second = client.responses.create(model=MODEL, input="[[sim: full text=Two.]] 2?", previous_response_id=first.id)
    third = client.responses.create(model=MODEL, input="[[sim: full text=Three.]] 3?", previous_response_id=second.id)
    [sent] = user.sent(third)
    return {
        "text": third.output_text,
        "previous": third.previous_response_id == second.id,
        "said": said(sent),
        "instructions": sent.get("instructions"),
        "sent_previous": "previous_response_id" in sent,
    }


@scenario
def multi_turn_by_hand(user: User) -> Facts:
    client = user.client()
    history: list[Any] = [{"role": "user", "content": "[[sim: full text=One.]] 1?"}]
    first = client.responses.create(model=MODEL, input=history)
    history += first.output
    history.append({"role": "user", "content": "[[sim: full text=Two.]] 2?"})
    second = client.responses.create(model=MODEL, input=history)
    return {"text": second.output_text, "said": [line for line in said(user.sent(second)[0]) if line[0] != "reasoning"]}


@scenario
def follow_up_to_a_running_response(user: User) -> Facts:
    first = submit(user, "full text=Slow. delay=1")
    second = user.client().responses.create(
        model=MODEL, input="[[sim: full text=After.]] And?", previous_response_id=first.id
    )
    return {"text": second.output_text, "said": [line[1] for line in said(user.sent(second)[0])][1:]}


@scenario
def follow_up_to_nothing(user: User) -> Facts:
    client = user.client()

    def follow(response_id: str) -> Facts:
        return refusal(lambda: client.responses.create(model=MODEL, input="x", previous_response_id=response_id))

    deleted = submit(user, extra_body={"run_at": far_away()})
    client.responses.delete(deleted.id)
    failed = poll(user.lenient(), submit(user.lenient(), "400-value"))
    cancelled = client.responses.cancel(submit(user, extra_body={"run_at": far_away()}).id)
    return {
        "unknown": follow(NOBODYS),
        "deleted": follow(deleted.id),
        "failed": follow(failed.id),
        "cancelled": follow(cancelled.id),
    }


@scenario
def not_stored(user: User) -> Facts:
    done = user.client().responses.create(model=MODEL, input=user.prompt(), store=False)
    return {"store": done.to_dict()["store"], "status": user.client().responses.retrieve(done.id).status}


@scenario
def tool_round_trip(user: User) -> Facts:
    client = user.client()
    tools: Any = [WEATHER]
    asked = client.responses.create(
        model=MODEL,
        input=user.prompt('tool-call name=weather arguments="{\\"city\\": \\"Oslo\\"}"', "How is it in Oslo?"),
        tools=tools,
    )
    [call] = [item for item in asked.output if item.type == "function_call"]
    answered = client.responses.create(
        model=MODEL,
        previous_response_id=asked.id,
        input=[{"type": "function_call_output", "call_id": call.call_id, "output": "[[sim: full text=Cold.]] 9"}],
        tools=tools,
    )
    sent = [item for item in user.sent(answered)[0]["input"] if item.get("type", "message") != "reasoning"]
    return {
        "name": call.name,
        "arguments": json.loads(call.arguments),
        "output_text": asked.output_text,
        "text": answered.output_text,
        "sent": [item.get("type", "message") for item in sent],
        "same_call": {item["call_id"] for item in sent if "call_id" in item} == {call.call_id},
    }


@scenario
def tool_round_trip_by_hand(user: User) -> Facts:
    client = user.client()
    tools: Any = [WEATHER]
    history: list[Any] = [{"role": "user", "content": user.prompt("tool-call", "How is it in Oslo?")}]
    asked = client.responses.create(model=MODEL, input=history, tools=tools)
    history += asked.output
    for call in asked.output:
        if call.type == "function_call":
            history.append(
                {"type": "function_call_output", "call_id": call.call_id, "output": "[[sim: full text=Cold.]] 9"}
            )
    answered = client.responses.create(model=MODEL, input=history, tools=tools)
    return {"text": answered.output_text}


class City(BaseModel):
    name: str
    people: int
    rivers: list[str]


@scenario
def structured_output(user: User) -> Facts:
    text = json.dumps(json.dumps({"name": "Oslo", "people": 700000, "rivers": ["Akerselva"]}))
    parsed = user.client().responses.parse(model=MODEL, input=user.prompt(f"json text={text}"), text_format=City)
    city = parsed.output_parsed
    assert city is not None
    plain: Response = user.client().responses.retrieve(parsed.id)
    return {"city": city.model_dump(), "format": plain.to_dict()["text"]["format"]["type"]}  # type: ignore[index]


@scenario
def input_items(user: User) -> Facts:
    client = user.client()
    if not hasattr(client.responses, "input_items"):
        raise Absent("responses.input_items")
    texts = [f"{number}" for number in range(5)]
    messages: list[Any] = [{"role": "user", "content": text} for text in texts]
    done = client.responses.create(model=MODEL, input=[*messages, {"role": "user", "content": user.prompt()}])

    def read(**query: Any) -> list[str]:
        items: list[Any] = list(client.responses.input_items.list(done.id, **query))
        return [item.content[0].text for item in items][: len(texts) + 1]

    page = client.responses.input_items.list(done.id, limit=2, order="asc")
    items: list[Any] = page.data
    return {
        "forwards": read(limit=2, order="asc")[:-1],
        "backwards": read(limit=4)[1:],
        "after": read(order="asc", after=items[1].id)[:-1],
        "page": [len(page.data), page.has_more],
        "kinds": [[item.type, item.role] for item in items],
        "ids": len({item.id for item in items}),
    }


@scenario
def input_items_of_a_text(user: User) -> Facts:
    done = user.client().responses.create(model=MODEL, input=user.prompt())
    items: list[Any] = list(user.client().responses.input_items.list(done.id))
    return {
        "items": [[item.type, item.role, [part.type for part in item.content]] for item in items],
        "text": items[0].content[0].text == user.prompt(),
    }


@scenario
def input_tokens(user: User) -> Facts:
    client = user.client()
    if not hasattr(client.responses, "input_tokens"):
        raise Absent("responses.input_tokens")
    short = client.responses.input_tokens.count(model=MODEL, input="Hello")
    long = client.responses.input_tokens.count(model=MODEL, input="Hello " * 100, instructions="Be brief.")
    return {"object": short.object, "some": short.input_tokens > 0, "more": long.input_tokens >= 100}


@scenario
def input_tokens_of_everything(user: User) -> Facts:
    client = user.client()
    if not hasattr(client.responses, "input_tokens"):
        raise Absent("responses.input_tokens")
    first = client.responses.create(model=MODEL, input=user.prompt(words="Hello " * 100))
    tools: Any = [WEATHER]
    counted = client.responses.input_tokens.count(
        model=MODEL,
        input="And now?",
        previous_response_id=first.id,
        tools=tools,
        tool_choice="auto",
        parallel_tool_calls=False,
        text={"format": {"type": "text"}},
        reasoning={"effort": "low"},
        truncation="auto",
        extra_body={"personality": "friendly"},
    )
    return {"with_the_conversation": counted.input_tokens >= 100}
