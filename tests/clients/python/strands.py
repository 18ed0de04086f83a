"""Strands Agents with OpenAIResponsesModel."""

from typing import Any

from pydantic import BaseModel
from strands import Agent, tool
from strands.models.openai_responses import OpenAIResponsesModel

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

PACKAGES = ("strands-agents", "openai")


class Weather(BaseModel):
    """The weather of a city."""

    city: str
    degrees: int


@tool
def get_weather(city: str, unit: str = "celsius") -> str:
    """Get the weather of a city.

    Args:
        city: the city's name
        unit: of the degrees
    """
    return result_of_tool(f"22 degrees in {city}", answer=f"It is mild in {city}.")


@tool
def get_time(city: str = "Paris") -> str:
    """Get the time of a city."""
    return f"noon in {city}"


def agent(user: User, model: Any = None, **options: Any) -> Agent:
    made = OpenAIResponsesModel(
        client_args={"base_url": user.base_url, "api_key": user.api_key}, model_id=MODEL, **(model or {})
    )
    return Agent(model=made, callback_handler=None, **options)


def said(result: Any) -> str:
    return str(result).strip()


@scenario
def text(user: User) -> None:
    result = agent(user)(user.asks("Hello.", answer="Good day."))
    expect(said(result) == "Good day.", result)


@scenario
def stream(user: User) -> None:
    async def streamed() -> str:
        events = agent(user).stream_async(user.asks("Hello.", answer="Good day to all of you."))
        return "".join([event["data"] async for event in events if "data" in event])

    seen = run_async(streamed())
    expect(seen == "Good day to all of you.", seen)


@scenario
def instructions(user: User) -> None:
    result = agent(user, system_prompt="You are a parrot.")(user.asks("Hello.", answer="Good day."))
    expect(said(result) == "Good day.", result)
    expect(user.provider_got("You are a parrot."), user.sent())


@scenario
def tool_loop(user: User) -> None:
    question = user.asks_for_tool("The weather of Paris?", "get_weather", {"city": "Paris"})
    result = agent(user, tools=[get_weather])(question)
    expect(said(result) == "It is mild in Paris.", result)
    expect(user.provider_got("22 degrees in Paris"), user.sent())


@scenario
def parallel_tools(user: User) -> None:
    result = agent(user, tools=[get_weather, get_time])(user.asks_for_tools("get_weather", "get_time"))
    expect(said(result), result)
    expect(user.provider_got("22 degrees in") and user.provider_got("noon in"), user.sent())


@scenario
def history(user: User) -> None:
    made = agent(user)
    made(user.asks("My name is Ada.", answer="Hello, Ada."))
    result = made(user.asks("What is my name?", answer="Ada."))
    expect(said(result) == "Ada.", result)
    expect(user.provider_got("Hello, Ada."), user.sent())


@scenario
def history_of_others(user: User) -> None:
    messages: Any = [
        {"role": "user", "content": [{"text": f"My name is Ada. {user.tag}"}]},
        {"role": "assistant", "content": [{"text": "Hello, Ada."}]},
    ]
    result = agent(user, messages=messages)(user.asks("What is my name?", answer="Ada."))
    expect(said(result) == "Ada.", result)
    expect(user.provider_got("Hello, Ada."), user.sent())


@scenario
def history_with_tools(user: User) -> None:
    made = agent(user, tools=[get_weather])
    made(user.asks_for_tool("The weather of Paris?", "get_weather", {"city": "Paris"}))
    result = made(user.asks("Thank you.", answer="Not at all."))
    expect(said(result) == "Not at all.", result)
    expect(user.provider_got("It is mild in Paris."), user.sent())


@scenario
@needs_state
def previous_response_id(user: User) -> None:
    made = agent(user, {"stateful": True})
    made(user.asks("My name is Ada.", answer="Hello, Ada."))
    result = made(user.asks("What is my name?", answer="Ada."))
    expect(said(result) == "Ada.", result)
    expect(user.provider_got("Hello, Ada."), user.sent())


@scenario
@needs_state
def tool_loop_by_previous_response_id(user: User) -> None:
    made = agent(user, {"stateful": True}, tools=[get_weather])
    result = made(user.asks_for_tool("The weather of Paris?", "get_weather", {"city": "Paris"}))
    expect(said(result) == "It is mild in Paris.", result)
    expect(user.provider_got("22 degrees in Paris") and user.provider_got("The weather of Paris?"), user.sent())


@scenario
def structured(user: User) -> None:
    question = user.asks_for_tool("The weather of Paris?", "Weather", {"city": "Paris", "degrees": 22})
    result = agent(user)(question, structured_output_model=Weather)
    expect(result.structured_output == Weather(city="Paris", degrees=22), result)


@scenario
def image(user: User) -> None:
    question = user.asks("Of which colour is this?", answer="Red.")
    content: Any = [{"text": question}, {"image": {"format": "png", "source": {"bytes": PNG_BYTES}}}]
    result = agent(user)(content)
    expect(said(result) == "Red.", result)
    expect(user.provider_got(PNG_URL), user.sent())


@scenario
def reasoning(user: User) -> None:
    made = agent(user, {"params": {"reasoning": {"effort": "low", "summary": "auto"}}}, tools=[get_weather])
    result = made(user.asks_for_tool("The weather of Paris?", "get_weather", {"city": "Paris"}))
    expect(said(result) == "It is mild in Paris.", result)


@scenario
def empty_held(user: User) -> None:
    agent(user)(user.asks_for_nothing())


@scenario
def empty_streamed(user: User) -> None:
    async def streamed() -> None:
        async for _ in agent(user).stream_async(user.asks_for_nothing()):
            pass

    run_async(streamed())
