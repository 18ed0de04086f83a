"""Haystack's OpenAIResponsesChatGenerator."""

from typing import Any

from haystack.components.agents import Agent
from haystack.components.generators.chat import OpenAIResponsesChatGenerator
from haystack.dataclasses import ChatMessage, ImageContent
from haystack.tools import create_tool_from_function
from haystack.utils import Secret
from pydantic import BaseModel

from tests.clients.python.user import (
    MODEL,
    PNG,
    PNG_URL,
    User,
    expect,
    needs_state,
    result_of_tool,
    run_async,
    scenario,
)

PACKAGES = ("haystack-ai", "openai")


class Weather(BaseModel):
    """The weather of a city."""

    city: str
    degrees: int


def get_weather(city: str = "Paris", unit: str = "celsius") -> str:
    """Get the weather of a city."""
    return result_of_tool(f"22 degrees in {city}", answer=f"It is mild in {city}.")


def get_time(city: str = "Paris") -> str:
    """Get the time of a city."""
    return f"noon in {city}"


TOOLS = [create_tool_from_function(get_weather), create_tool_from_function(get_time)]
CALLS = {tool.name: tool for tool in TOOLS}


def generator(user: User, **options: Any) -> OpenAIResponsesChatGenerator:
    return OpenAIResponsesChatGenerator(
        model=MODEL, api_base_url=user.base_url, api_key=Secret.from_token(user.api_key), **options
    )


def ask(user: User, messages: list[ChatMessage], **options: Any) -> ChatMessage:
    return generator(user, **options).run(messages)["replies"][0]


@scenario
def text(user: User) -> None:
    reply = ask(user, [ChatMessage.from_user(user.asks("Hello.", answer="Good day."))])
    expect(reply.text == "Good day.", reply)


@scenario
def text_async(user: User) -> None:
    messages = [ChatMessage.from_user(user.asks("Hello.", answer="Good day."))]
    reply = run_async(generator(user).run_async(messages))["replies"][0]
    expect(reply.text == "Good day.", reply)


@scenario
def stream(user: User) -> None:
    seen: list[str] = []
    messages = [ChatMessage.from_user(user.asks("Hello.", answer="Good day to all of you."))]
    reply = ask(user, messages, streaming_callback=lambda chunk: seen.append(chunk.content))
    expect("".join(seen) == reply.text == "Good day to all of you.", (seen, reply))


@scenario
def instructions(user: User) -> None:
    messages = [
        ChatMessage.from_system("You are a parrot."),
        ChatMessage.from_user(user.asks("Hello.", answer="Good day.")),
    ]
    reply = ask(user, messages)
    expect(reply.text == "Good day.", reply)
    expect(user.provider_got("You are a parrot."), user.sent())


def _loop(made: OpenAIResponsesChatGenerator, question: str) -> list[ChatMessage]:
    messages = [ChatMessage.from_user(question)]
    for _ in range(3):
        replies = made.run(messages)["replies"]
        messages += replies
        if not replies[0].tool_calls:
            return messages
        for call in replies[0].tool_calls:
            result = CALLS[call.tool_name].invoke(**call.arguments)
            messages.append(ChatMessage.from_tool(tool_result=result, origin=call))
    raise AssertionError(f"the tool is called for ever: {messages!r}")


@scenario
def tool_loop(user: User) -> None:
    question = user.asks_for_tool("The weather of Paris?", "get_weather", {"city": "Paris"})
    messages = _loop(generator(user, tools=TOOLS), question)
    expect(messages[-1].text == "It is mild in Paris.", messages)
    expect(user.provider_got("22 degrees in Paris"), user.sent())


@scenario
def tool_loop_streamed(user: User) -> None:
    question = user.asks_for_tool("The weather of Paris?", "get_weather", {"city": "Paris"})
    seen: list[str] = []
    made = generator(user, tools=TOOLS, streaming_callback=lambda chunk: seen.append(chunk.content))
    messages = _loop(made, question)
    expect(messages[-1].text == "It is mild in Paris.", messages)


@scenario
def parallel_tools(user: User) -> None:
    messages = _loop(generator(user, tools=TOOLS), user.asks_for_tools("get_weather", "get_time"))
    expect(len(messages[1].tool_calls) == 2 and messages[-1].text, messages)
    expect(user.provider_got("22 degrees in") and user.provider_got("noon in"), user.sent())


@scenario
def history(user: User) -> None:
    made = generator(user)
    messages = [ChatMessage.from_user(user.asks("My name is Ada.", answer="Hello, Ada."))]
    messages += made.run(messages)["replies"]
    messages.append(ChatMessage.from_user(user.asks("What is my name?", answer="Ada.")))
    reply = made.run(messages)["replies"][0]
    expect(reply.text == "Ada.", reply)
    expect(user.provider_got("Hello, Ada."), user.sent())


@scenario
def history_of_others(user: User) -> None:
    messages = [
        ChatMessage.from_user(f"My name is Ada. {user.tag}"),
        ChatMessage.from_assistant("Hello, Ada."),
        ChatMessage.from_user(user.asks("What is my name?", answer="Ada.")),
    ]
    reply = ask(user, messages)
    expect(reply.text == "Ada.", reply)
    expect(user.provider_got("Hello, Ada."), user.sent())


@scenario
def history_with_tools(user: User) -> None:
    made = generator(user, tools=TOOLS)
    messages = _loop(made, user.asks_for_tool("The weather of Paris?", "get_weather", {"city": "Paris"}))
    messages.append(ChatMessage.from_user(user.asks("Thank you.", answer="Not at all.")))
    reply = made.run(messages)["replies"][0]
    expect(reply.text == "Not at all.", reply)
    expect(user.provider_got("It is mild in Paris."), user.sent())


@scenario
@needs_state
def previous_response_id(user: User) -> None:
    first = ask(user, [ChatMessage.from_user(user.asks("My name is Ada.", answer="Hello, Ada."))])
    second = ask(
        user,
        [ChatMessage.from_user(user.asks("What is my name?", answer="Ada."))],
        generation_kwargs={"previous_response_id": first.meta["id"]},
    )
    expect(second.text == "Ada.", second)
    expect(user.provider_got("Hello, Ada."), user.sent())


@scenario
def structured(user: User) -> None:
    question = user.asks_for_json("The weather of Paris?", {"city": "Paris", "degrees": 22})
    reply = ask(user, [ChatMessage.from_user(question)], generation_kwargs={"text_format": Weather})
    expect(Weather.model_validate_json(reply.text or "") == Weather(city="Paris", degrees=22), reply)


@scenario
def structured_by_schema(user: User) -> None:
    question = user.asks_for_json("The weather of Paris?", {"city": "Paris", "degrees": 22})
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string"}, "degrees": {"type": "integer"}},
        "required": ["city", "degrees"],
        "additionalProperties": False,
    }
    form = {"format": {"type": "json_schema", "name": "weather", "strict": True, "schema": schema}}
    reply = ask(user, [ChatMessage.from_user(question)], generation_kwargs={"text": form})
    expect(Weather.model_validate_json(reply.text or "") == Weather(city="Paris", degrees=22), reply)


@scenario
def image(user: User) -> None:
    question = user.asks("Of which colour is this?", answer="Red.")
    picture = ImageContent(base64_image=PNG, mime_type="image/png")
    reply = ask(user, [ChatMessage.from_user(content_parts=[question, picture])])
    expect(reply.text == "Red.", reply)
    expect(user.provider_got(PNG_URL), user.sent())


@scenario
def reasoning_given_back(user: User) -> None:
    options = {
        "reasoning": {"effort": "low", "summary": "auto"},
        "include": ["reasoning.encrypted_content"],
        "store": False,
    }
    made = generator(user, tools=TOOLS, generation_kwargs=options)
    messages = _loop(made, user.asks_for_tool("The weather of Paris?", "get_weather", {"city": "Paris"}))
    expect(messages[1].reasoning, messages[1])
    messages.append(ChatMessage.from_user(user.asks("Thank you.", answer="Not at all.")))
    reply = made.run(messages)["replies"][0]
    expect(reply.text == "Not at all.", reply)


@scenario
def agent(user: User) -> None:
    made = Agent(chat_generator=generator(user), tools=TOOLS, system_prompt="You are a parrot.")
    question = user.asks_for_tool("The weather of Paris?", "get_weather", {"city": "Paris"})
    result = made.run(messages=[ChatMessage.from_user(question)])
    expect(result["messages"][-1].text == "It is mild in Paris.", result)


@scenario
def empty_held(user: User) -> None:
    ask(user, [ChatMessage.from_user(user.asks_for_nothing())])


@scenario
def empty_streamed(user: User) -> None:
    ask(user, [ChatMessage.from_user(user.asks_for_nothing())], streaming_callback=lambda _: None)
