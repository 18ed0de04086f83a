"""Agno with OpenAIResponses."""

from typing import Any

from agno.agent import Agent, RunContentEvent
from agno.db.in_memory import InMemoryDb
from agno.media import Image
from agno.models.message import Message
from agno.models.openai import OpenAIResponses
from pydantic import BaseModel

from tests.clients.python.user import (
    BARE_MODEL,
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

PACKAGES = ("agno", "openai")


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


def agent(user: User, model: Any = None, name: str = MODEL, **options: Any) -> Agent:
    made = OpenAIResponses(id=name, base_url=user.base_url, api_key=user.api_key, **(model or {}))
    return Agent(model=made, telemetry=False, **options)


def run(made: Agent, given: Any, **options: Any) -> Any:
    output = made.run(given, **options)
    if str(getattr(output.status, "value", output.status)).upper() != "COMPLETED":
        raise AssertionError(f"{output.status}: {output.content}")
    return output


@scenario
def text(user: User) -> None:
    output = run(agent(user), user.asks("Hello.", answer="Good day."))
    expect(output.content == "Good day.", output)


@scenario
def text_of_bare_model(user: User) -> None:
    output = run(agent(user, name=BARE_MODEL), user.asks("Hello.", answer="Good day."))
    expect(output.content == "Good day.", output)


@scenario
def text_async(user: User) -> None:
    output = run_async(agent(user).arun(user.asks("Hello.", answer="Good day.")))
    expect(output.content == "Good day.", output)


@scenario
def stream(user: User) -> None:
    events = agent(user).run(user.asks("Hello.", answer="Good day to all of you."), stream=True)
    seen = "".join(event.content or "" for event in events if isinstance(event, RunContentEvent))
    expect(seen == "Good day to all of you.", seen)


@scenario
def instructions(user: User) -> None:
    output = run(agent(user, instructions="You are a parrot."), user.asks("Hello.", answer="Good day."))
    expect(output.content == "Good day.", output)
    expect(user.provider_got("You are a parrot."), user.sent())


@scenario
def tool_loop(user: User) -> None:
    question = user.asks_for_tool("The weather of Paris?", "get_weather", {"city": "Paris"})
    output = run(agent(user, tools=[get_weather]), question)
    expect(output.content == "It is mild in Paris.", output)
    expect(user.provider_got("22 degrees in Paris"), user.sent())


@scenario
@needs_state
def tool_loop_of_bare_model(user: User) -> None:
    """Chained by previous_response_id, as Agno does for models that it knows to reason."""
    question = user.asks_for_tool("The weather of Paris?", "get_weather", {"city": "Paris"})
    output = run(agent(user, name=BARE_MODEL, tools=[get_weather]), question)
    expect(output.content == "It is mild in Paris.", output)
    expect(user.provider_got("22 degrees in Paris") and user.provider_got("The weather of Paris?"), user.sent())


@scenario
def tool_loop_streamed(user: User) -> None:
    question = user.asks_for_tool("The weather of Paris?", "get_weather", {"city": "Paris"})
    events = agent(user, tools=[get_weather]).run(question, stream=True)
    seen = "".join(event.content or "" for event in events if isinstance(event, RunContentEvent))
    expect(seen == "It is mild in Paris.", seen)


@scenario
def parallel_tools(user: User) -> None:
    made = agent(user, {"parallel_tool_calls": True}, tools=[get_weather, get_time])
    output = run(made, user.asks_for_tools("get_weather", "get_time"))
    expect(output.content, output)
    expect(user.provider_got("22 degrees in") and user.provider_got("noon in"), user.sent())


@scenario
def history(user: User) -> None:
    made = agent(user, db=InMemoryDb(), add_history_to_context=True)
    run(made, user.asks("My name is Ada.", answer="Hello, Ada."), session_id="ada")
    output = run(made, user.asks("What is my name?", answer="Ada."), session_id="ada")
    expect(output.content == "Ada.", output)
    expect(user.provider_got("Hello, Ada."), user.sent())


@scenario
@needs_state
def history_of_bare_model(user: User) -> None:
    made = agent(user, name=BARE_MODEL, db=InMemoryDb(), add_history_to_context=True)
    run(made, user.asks("My name is Ada.", answer="Hello, Ada."), session_id="ada")
    output = run(made, user.asks("What is my name?", answer="Ada."), session_id="ada")
    expect(output.content == "Ada.", output)
    expect(user.provider_got("Hello, Ada."), user.sent())


@scenario
def history_of_others(user: User) -> None:
    messages = [
        Message(role="user", content=f"My name is Ada. {user.tag}"),
        Message(role="assistant", content="Hello, Ada."),
        Message(role="user", content=user.asks("What is my name?", answer="Ada.")),
    ]
    output = run(agent(user), messages)
    expect(output.content == "Ada.", output)
    expect(user.provider_got("Hello, Ada."), user.sent())


@scenario
def history_with_tools(user: User) -> None:
    made = agent(user, tools=[get_weather], db=InMemoryDb(), add_history_to_context=True)
    question = user.asks_for_tool("The weather of Paris?", "get_weather", {"city": "Paris"})
    run(made, question, session_id="ada")
    output = run(made, user.asks("Thank you.", answer="Not at all."), session_id="ada")
    expect(output.content == "Not at all.", output)
    expect(user.provider_got("It is mild in Paris."), user.sent())


@scenario
@needs_state
def background(user: User) -> None:
    model = {"background": True, "background_poll_interval": 0.1}
    output = run(agent(user, model), user.asks("Hello.", answer="Good day."))
    expect(output.content == "Good day.", output)


@scenario
def structured(user: User) -> None:
    question = user.asks_for_json("The weather of Paris?", {"city": "Paris", "degrees": 22})
    output = run(agent(user, output_schema=Weather), question)
    expect(output.content == Weather(city="Paris", degrees=22), output)


@scenario
def image(user: User) -> None:
    picture = Image(content=PNG_BYTES, format="png")
    output = run(agent(user), user.asks("Of which colour is this?", answer="Red."), images=[picture])
    expect(output.content == "Red.", output)
    expect(user.provider_got(PNG_URL.partition(",")[2]), user.sent())


@scenario
def reasoning_given_back(user: User) -> None:
    model = {
        "store": False,
        "reasoning_effort": "low",
        "reasoning_summary": "auto",
        "include": ["reasoning.encrypted_content"],
    }
    question = user.asks_for_tool("The weather of Paris?", "get_weather", {"city": "Paris"})
    output = run(agent(user, model, name=BARE_MODEL, tools=[get_weather]), question)
    expect(output.content == "It is mild in Paris.", output)
    expect(user.provider_got("22 degrees in Paris"), user.sent())


@scenario
def verbosity(user: User) -> None:
    output = run(agent(user, {"verbosity": "low"}), user.asks("Hello.", answer="Good day."))
    expect(output.content == "Good day.", output)


@scenario
def empty_held(user: User) -> None:
    run(agent(user), user.asks_for_nothing())


@scenario
def empty_streamed(user: User) -> None:
    list(agent(user).run(user.asks_for_nothing(), stream=True))
