"""The LiteLLM SDK: `responses`, and `completion` bridged to it."""

import gc
import json
from typing import Any

import litellm
from pydantic import BaseModel

from tests.clients.python.user import (
    MODEL,
    PNG_URL,
    Json,
    User,
    expect,
    needs_state,
    result_of_tool,
    run_async,
    scenario,
)

PACKAGES = ("litellm", "openai")
# LiteLLM leaves a stream that it has read to the end for the collector to close. Where the collector comes by while
# httpcore holds the lock of that connection pool, the program waits for itself for ever, whichever server it talks to.
gc.disable()
# the first part names LiteLLM's provider, the rest goes out
NAME = f"openai/{MODEL}"
BRIDGED = f"openai/responses/{MODEL}"

TOOL: Any = {
    "type": "function",
    "name": "get_weather",
    "description": "Get the weather of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
TIME: Any = {**TOOL, "name": "get_time", "description": "Get the time of a city."}
CHAT_TOOL: Any = {"type": "function", "function": {name: TOOL[name] for name in ("name", "description", "parameters")}}


class Weather(BaseModel):
    """The weather of a city."""

    city: str
    degrees: int


def get_weather(city: str) -> str:
    return result_of_tool(f"22 degrees in {city}", answer=f"It is mild in {city}.")


def get_time(city: str) -> str:
    return f"noon in {city}"


CALLS = {"get_weather": get_weather, "get_time": get_time}


def where(user: User) -> Any:
    return {"model": NAME, "api_base": user.base_url, "api_key": user.api_key}


def text_of(response: Any) -> str:
    return "".join(
        part.text for item in response.output if item.type == "message" for part in item.content if part.text
    )


def ask(user: User, input_: Any, **options: Any) -> Any:
    return litellm.responses(input=input_, **where(user), **options)


@scenario
def text(user: User) -> None:
    response = ask(user, user.asks("Hello.", answer="Good day."))
    expect(text_of(response) == "Good day.", response)
    expect(response.usage.output_tokens > 0, response.usage)


@scenario
def text_async(user: User) -> None:
    response = run_async(litellm.aresponses(input=user.asks("Hello.", answer="Good day."), **where(user)))
    expect(text_of(response) == "Good day.", response)


@scenario
def stream(user: User) -> None:
    events = list(ask(user, user.asks("Hello.", answer="Good day to all of you."), stream=True))
    seen = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    expect(seen == "Good day to all of you.", events)
    expect(events[-1].type == "response.completed", events[-1])


@scenario
def stream_async(user: User) -> None:
    async def streamed() -> str:
        question = user.asks("Hello.", answer="Good day to all of you.")
        events = await litellm.aresponses(input=question, stream=True, **where(user))
        return "".join([event.delta async for event in events if event.type == "response.output_text.delta"])

    seen = run_async(streamed())
    expect(seen == "Good day to all of you.", seen)


@scenario
def instructions(user: User) -> None:
    response = ask(user, user.asks("Hello.", answer="Good day."), instructions="You are a parrot.")
    expect(text_of(response) == "Good day.", response)
    expect(user.provider_got("You are a parrot."), user.sent())


def _dumped(item: Any) -> Json:
    return item if isinstance(item, dict) else item.model_dump()


def _loop(user: User, question: str, **options: Any) -> tuple[str, list[Any]]:
    items: list[Any] = [{"role": "user", "content": question}]
    for _ in range(3):
        response = ask(user, items, tools=[TOOL, TIME], **options)
        items += [_dumped(item) for item in response.output]
        calls = [item for item in response.output if item.type == "function_call"]
        if not calls:
            return text_of(response), items
        for call in calls:
            output = CALLS[call.name](**json.loads(call.arguments))
            items.append({"type": "function_call_output", "call_id": call.call_id, "output": output})
    raise AssertionError(f"the tool is called for ever: {items!r}")


@scenario
def tool_loop(user: User) -> None:
    said, items = _loop(user, user.asks_for_tool("The weather of Paris?", "get_weather", {"city": "Paris"}))
    expect(said == "It is mild in Paris.", items)
    expect(user.provider_got("22 degrees in Paris"), user.sent())


@scenario
def parallel_tools(user: User) -> None:
    said, items = _loop(user, user.asks_for_tools("get_weather", "get_time"), parallel_tool_calls=True)
    expect(said and len([item for item in items if item.get("type") == "function_call"]) == 2, items)
    expect(user.provider_got("22 degrees in") and user.provider_got("noon in"), user.sent())


@scenario
def history(user: User) -> None:
    question = {"role": "user", "content": user.asks("My name is Ada.", answer="Hello, Ada.")}
    first = ask(user, [question])
    again = {"role": "user", "content": user.asks("What is my name?", answer="Ada.")}
    second = ask(user, [question, *(_dumped(item) for item in first.output), again])
    expect(text_of(second) == "Ada.", second)
    expect(user.provider_got("Hello, Ada."), user.sent())


@scenario
def history_of_others(user: User) -> None:
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": f"My name is Ada. {user.tag}"}]},
        {"role": "assistant", "content": [{"type": "output_text", "text": "Hello, Ada."}]},
        {"role": "user", "content": [{"type": "input_text", "text": user.asks("What is my name?", answer="Ada.")}]},
    ]
    response = ask(user, items)
    expect(text_of(response) == "Ada.", response)
    expect(user.provider_got("Hello, Ada."), user.sent())


@scenario
@needs_state
def previous_response_id(user: User) -> None:
    first = ask(user, user.asks("My name is Ada.", answer="Hello, Ada."))
    second = ask(user, user.asks("What is my name?", answer="Ada."), previous_response_id=first.id)
    expect(text_of(second) == "Ada.", second)
    expect(user.provider_got("Hello, Ada."), user.sent())


@scenario
@needs_state
def tool_loop_by_previous_response_id(user: User) -> None:
    first = ask(user, user.asks_for_tool("The weather of Paris?", "get_weather", {"city": "Paris"}), tools=[TOOL])
    call = next(item for item in first.output if item.type == "function_call")
    output = {"type": "function_call_output", "call_id": call.call_id, "output": get_weather("Paris")}
    second = ask(user, [output], tools=[TOOL], previous_response_id=first.id)
    expect(text_of(second) == "It is mild in Paris.", second)
    expect(user.provider_got("The weather of Paris?") and user.provider_got("22 degrees in Paris"), user.sent())


@scenario
@needs_state
def background(user: User) -> None:
    response = ask(user, user.asks("Hello.", answer="Good day."), background=True)
    asked = {"api_base": user.base_url, "api_key": user.api_key, "custom_llm_provider": "openai"}
    for _ in user.until_done():
        if response.status not in ("queued", "in_progress"):
            break
        response = litellm.get_responses(response_id=response.id, **asked)
    expect(text_of(response) == "Good day.", response)


@scenario
@needs_state
def retrieve_and_delete(user: User) -> None:
    first = ask(user, user.asks("Hello.", answer="Good day."))
    asked = {"api_base": user.base_url, "api_key": user.api_key, "custom_llm_provider": "openai"}
    again = litellm.get_responses(response_id=first.id, **asked)
    expect(text_of(again) == "Good day.", again)
    gone = litellm.delete_responses(response_id=first.id, **asked)
    expect(gone.deleted, gone)


@scenario
def structured(user: User) -> None:
    question = user.asks_for_json("The weather of Paris?", {"city": "Paris", "degrees": 22})
    response = ask(user, question, text_format=Weather)
    expect(Weather.model_validate_json(text_of(response)) == Weather(city="Paris", degrees=22), response)


@scenario
def image(user: User) -> None:
    content = [
        {"type": "input_text", "text": user.asks("Of which colour is this?", answer="Red.")},
        {"type": "input_image", "image_url": PNG_URL},
    ]
    response = ask(user, [{"role": "user", "content": content}])
    expect(text_of(response) == "Red.", response)
    expect(user.provider_got(PNG_URL), user.sent())


@scenario
def reasoning_given_back(user: User) -> None:
    options = {
        "reasoning": {"effort": "low", "summary": "auto"},
        "include": ["reasoning.encrypted_content"],
        "store": False,
    }
    question = user.asks_for_tool("The weather of Paris?", "get_weather", {"city": "Paris"})
    said, items = _loop(user, question, **options)
    expect(said == "It is mild in Paris.", items)
    expect(any(item.get("type") == "reasoning" for item in items), items)


def complete(user: User, messages: Any, **options: Any) -> Any:
    options = {**where(user), "model": BRIDGED, **options}
    return litellm.completion(messages=messages, **options)


@scenario
def completion(user: User) -> None:
    question = {"role": "user", "content": user.asks("Hello.", answer="Good day.")}
    answer = complete(user, [{"role": "system", "content": "You are a parrot."}, question])
    expect(answer.choices[0].message.content == "Good day.", answer)
    expect(user.provider_got("You are a parrot."), user.sent())


@scenario
def completion_streamed(user: User) -> None:
    messages = [{"role": "user", "content": user.asks("Hello.", answer="Good day to all of you.")}]
    chunks = list(complete(user, messages, stream=True))
    seen = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    expect(seen == "Good day to all of you.", chunks)


@scenario
def completion_tool_loop(user: User) -> None:
    question = user.asks_for_tool("The weather of Paris?", "get_weather", {"city": "Paris"})
    messages: list[Any] = [{"role": "user", "content": question}]
    first = complete(user, messages, tools=[CHAT_TOOL]).choices[0].message
    messages.append(first)
    for call in first.tool_calls:
        output = get_weather(**json.loads(call.function.arguments))
        messages.append({"role": "tool", "tool_call_id": call.id, "content": output})
    second = complete(user, messages, tools=[CHAT_TOOL]).choices[0].message
    expect(second.content == "It is mild in Paris.", second)


@scenario
def completion_history(user: User) -> None:
    messages = [
        {"role": "user", "content": f"My name is Ada. {user.tag}"},
        {"role": "assistant", "content": "Hello, Ada."},
        {"role": "user", "content": user.asks("What is my name?", answer="Ada.")},
    ]
    answer = complete(user, messages)
    expect(answer.choices[0].message.content == "Ada.", answer)
    expect(user.provider_got("Hello, Ada."), user.sent())


@scenario
def completion_structured(user: User) -> None:
    question = user.asks_for_json("The weather of Paris?", {"city": "Paris", "degrees": 22})
    answer = complete(user, [{"role": "user", "content": question}], response_format=Weather)
    seen = Weather.model_validate_json(answer.choices[0].message.content)
    expect(seen == Weather(city="Paris", degrees=22), answer)


@scenario
def completion_image(user: User) -> None:
    content = [
        {"type": "text", "text": user.asks("Of which colour is this?", answer="Red.")},
        {"type": "image_url", "image_url": {"url": PNG_URL}},
    ]
    answer = complete(user, [{"role": "user", "content": content}])
    expect(answer.choices[0].message.content == "Red.", answer)
    expect(user.provider_got(PNG_URL), user.sent())


@scenario
def empty_held(user: User) -> None:
    ask(user, user.asks_for_nothing())


@scenario
def empty_streamed(user: User) -> None:
    list(ask(user, user.asks_for_nothing(), stream=True))
