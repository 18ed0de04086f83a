"""Microsoft's Agent Framework with OpenAIChatClient, which speaks the Responses API."""

from collections.abc import Awaitable
from typing import Any

from agent_framework import Agent, AgentSession, Content, Message
from agent_framework.openai import OpenAIChatClient
from pydantic import BaseModel

from tests.clients.python.user import (
    MODEL,
    PNG_BYTES,
    PNG_URL,
    User,
    expect,
    needs_state,
    result_of_tool,
    run_async,
    scenario,
)

PACKAGES = ("agent-framework-openai", "agent-framework-core", "openai")


class Weather(BaseModel):
    """The weather of a city."""

    city: str
    degrees: int


def get_weather(city: str, unit: str = "celsius") -> str:
    """Get the weather of a city."""
    return result_of_tool(f"22 degrees in {city}", answer=f"It is mild in {city}.")


def get_time(city: str = "Paris") -> str:
    """Get the time of a city."""
    return f"noon in {city}"


def client(user: User) -> OpenAIChatClient:
    return OpenAIChatClient(model=MODEL, base_url=user.base_url, api_key=user.api_key)


def agent(user: User, **options: Any) -> Agent:
    return Agent(client=client(user), **options)


def run(act: Awaitable[Any]) -> Any:
    async def awaited() -> Any:
        return await act

    return run_async(awaited())


@scenario
def text(user: User) -> None:
    result = run(agent(user).run(user.asks("Hello.", answer="Good day.")))
    expect(result.text == "Good day.", result.text)


@scenario
def client_alone(user: User) -> None:
    question = Message("user", [user.asks("Hello.", answer="Good day.")])
    result = run(client(user).get_response([question]))
    expect(result.text == "Good day.", result.text)


async def _streamed(made: Agent, question: str, **options: Any) -> str:
    """The text as its updates merge: some of them replace what came before."""
    updates = made.run(question, stream=True, **options)
    expect([update.text async for update in updates], "no update")
    return str((await updates.get_final_response()).text)


@scenario
def stream(user: User) -> None:
    seen = run_async(_streamed(agent(user), user.asks("Hello.", answer="Good day to all of you.")))
    expect(seen == "Good day to all of you.", seen)


@scenario
def instructions(user: User) -> None:
    result = run(agent(user, instructions="You are a parrot.").run(user.asks("Hello.", answer="Good day.")))
    expect(result.text == "Good day.", result.text)
    expect(user.provider_got("You are a parrot."), user.sent())


@scenario
@needs_state
def tool_loop(user: User) -> None:
    """By its default the second turn refers to the first."""
    question = user.asks_for_tool("The weather of Paris?", "get_weather", {"city": "Paris"})
    result = run(agent(user, tools=[get_weather]).run(question))
    expect(result.text == "It is mild in Paris.", result.text)
    expect(user.provider_got("22 degrees in Paris") and user.provider_got("The weather of Paris?"), user.sent())


@scenario
def tool_loop_without_store(user: User) -> None:
    question = user.asks_for_tool("The weather of Paris?", "get_weather", {"city": "Paris"})
    result = run(agent(user, tools=[get_weather], default_options={"store": False}).run(question))
    expect(result.text == "It is mild in Paris.", result.text)
    expect(user.provider_got("22 degrees in Paris"), user.sent())


@scenario
@needs_state
def tool_loop_streamed(user: User) -> None:
    question = user.asks_for_tool("The weather of Paris?", "get_weather", {"city": "Paris"})
    seen = run_async(_streamed(agent(user, tools=[get_weather]), question))
    expect(seen == "It is mild in Paris.", seen)


@scenario
def parallel_tools(user: User) -> None:
    options = {"store": False, "allow_multiple_tool_calls": True}
    made = agent(user, tools=[get_weather, get_time], default_options=options)
    result = run(made.run(user.asks_for_tools("get_weather", "get_time")))
    expect(result.text, result.text)
    expect(user.provider_got("22 degrees in") and user.provider_got("noon in"), user.sent())


@scenario
@needs_state
def session(user: User) -> None:
    async def talk() -> Any:
        made, memory = agent(user, tools=[get_weather]), AgentSession()
        question = user.asks_for_tool("The weather of Paris?", "get_weather", {"city": "Paris"})
        await made.run(question, session=memory)
        return await made.run(user.asks("Thank you.", answer="Not at all."), session=memory)

    result = run(talk())
    expect(result.text == "Not at all.", result.text)
    expect(user.provider_got("It is mild in Paris."), user.sent())


@scenario
def history_of_others(user: User) -> None:
    messages = [
        Message("user", [f"My name is Ada. {user.tag}"]),
        Message("assistant", ["Hello, Ada."]),
        Message("user", [user.asks("What is my name?", answer="Ada.")]),
    ]
    result = run(agent(user).run(messages))
    expect(result.text == "Ada.", result.text)
    expect(user.provider_got("Hello, Ada."), user.sent())


@scenario
def history(user: User) -> None:
    async def talk() -> Any:
        made = agent(user, tools=[get_weather], default_options={"store": False})
        question = user.asks_for_tool("The weather of Paris?", "get_weather", {"city": "Paris"})
        first = await made.run(question)
        thanks = Message("user", [user.asks("Thank you.", answer="Not at all.")])
        return await made.run([Message("user", [question]), *first.messages, thanks])

    result = run(talk())
    expect(result.text == "Not at all.", result.text)
    expect(user.provider_got("It is mild in Paris."), user.sent())


@scenario
@needs_state
def previous_response_id(user: User) -> None:
    async def talk() -> Any:
        made = agent(user)
        first = await made.run(user.asks("My name is Ada.", answer="Hello, Ada."))
        question = user.asks("What is my name?", answer="Ada.")
        return await made.run(question, options={"conversation_id": first.response_id})

    result = run(talk())
    expect(result.text == "Ada.", result.text)
    expect(user.provider_got("Hello, Ada."), user.sent())


@scenario
@needs_state
def background(user: User) -> None:
    async def talk() -> Any:
        made, memory = agent(user), AgentSession()
        options: Any = {"background": True}
        result = await made.run(user.asks("Hello.", answer="Good day."), session=memory, options=options)
        for _ in user.until_done():
            if result.continuation_token is None:
                return result
            options = {"continuation_token": result.continuation_token}
            result = await made.run(session=memory, options=options)
        raise AssertionError("unreachable")

    result = run(talk())
    expect(result.text == "Good day.", result.text)


@scenario
def structured(user: User) -> None:
    question = user.asks_for_json("The weather of Paris?", {"city": "Paris", "degrees": 22})
    result = run(agent(user).run(question, options={"response_format": Weather}))
    expect(result.value == Weather(city="Paris", degrees=22), result.value)


@scenario
def image(user: User) -> None:
    question = user.asks("Of which colour is this?", answer="Red.")
    message = Message("user", [question, Content.from_data(PNG_BYTES, "image/png")])
    result = run(agent(user).run(message))
    expect(result.text == "Red.", result.text)
    expect(user.provider_got(PNG_URL), user.sent())


@scenario
def reasoning_given_back(user: User) -> None:
    options: Any = {
        "store": False,
        "reasoning": {"effort": "low", "summary": "auto"},
        "include": ["reasoning.encrypted_content"],
    }
    question = user.asks_for_tool("The weather of Paris?", "get_weather", {"city": "Paris"})
    result = run(agent(user, tools=[get_weather], default_options=options).run(question))
    expect(result.text == "It is mild in Paris.", result.text)
    expect(user.provider_got("22 degrees in Paris"), user.sent())


@scenario
def verbosity(user: User) -> None:
    result = run(agent(user).run(user.asks("Hello.", answer="Good day."), options={"verbosity": "low"}))
    expect(result.text == "Good day.", result.text)


@scenario
def empty_held(user: User) -> None:
    run(agent(user).run(user.asks_for_nothing()))


@scenario
def empty_streamed(user: User) -> None:
    run_async(_streamed(agent(user), user.asks_for_nothing()))
