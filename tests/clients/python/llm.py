"""Simon Willison's llm: its Responses model, as `extra-openai-models.yaml` defines one."""

import json
from typing import Any

import llm
from llm.default_plugins.openai_models import AsyncResponses, Responses
from pydantic import BaseModel

from tests.clients.python.user import MODEL, PNG_BYTES, PNG_URL, User, expect, result_of_tool, run_async, scenario

PACKAGES = ("llm", "openai")


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


def model(user: User, kind: Any = Responses, **options: Any) -> Any:
    made = kind(
        model_id="backburner",
        model_name=MODEL,
        api_base=user.base_url,
        vision=True,
        supports_schema=True,
        supports_tools=True,
        **options,
    )
    made.needs_key, made.key = "backburner", user.api_key
    return made


@scenario
def text(user: User) -> None:
    seen = model(user).prompt(user.asks("Hello.", answer="Good day."), stream=False).text()
    expect(seen == "Good day.", seen)


@scenario
def text_async(user: User) -> None:
    async def asked() -> Any:
        return await model(user, AsyncResponses).prompt(user.asks("Hello.", answer="Good day."), stream=False).text()

    seen = run_async(asked())
    expect(seen == "Good day.", seen)


@scenario
def stream(user: User) -> None:
    chunks = list(model(user).prompt(user.asks("Hello.", answer="Good day to all of you.")))
    expect("".join(chunks) == "Good day to all of you.", chunks)


@scenario
def instructions(user: User) -> None:
    seen = model(user).prompt(user.asks("Hello.", answer="Good day."), system="You are a parrot.").text()
    expect(seen == "Good day.", seen)
    expect(user.provider_got("You are a parrot."), user.sent())


@scenario
def tool_loop(user: User) -> None:
    question = user.asks_for_tool("The weather of Paris?", "get_weather", {"city": "Paris"})
    seen = model(user).chain(question, tools=[get_weather], stream=False).text()
    expect(seen == "It is mild in Paris.", seen)
    expect(user.provider_got("22 degrees in Paris"), user.sent())


@scenario
def tool_loop_streamed(user: User) -> None:
    question = user.asks_for_tool("The weather of Paris?", "get_weather", {"city": "Paris"})
    seen = "".join(model(user).chain(question, tools=[get_weather]))
    expect(seen == "It is mild in Paris.", seen)


@scenario
def parallel_tools(user: User) -> None:
    question = user.asks_for_tools("get_weather", "get_time")
    seen = model(user).chain(question, tools=[get_weather, get_time]).text()
    expect(seen, seen)
    expect(user.provider_got("22 degrees in") and user.provider_got("noon in"), user.sent())


@scenario
def history(user: User) -> None:
    talk = model(user).conversation()
    talk.prompt(user.asks("My name is Ada.", answer="Hello, Ada.")).text()
    seen = talk.prompt(user.asks("What is my name?", answer="Ada.")).text()
    expect(seen == "Ada.", seen)
    expect(user.provider_got("Hello, Ada."), user.sent())


@scenario
def history_with_tools(user: User) -> None:
    talk = model(user).conversation(tools=[get_weather])
    talk.chain(user.asks_for_tool("The weather of Paris?", "get_weather", {"city": "Paris"})).text()
    seen = talk.chain(user.asks("Thank you.", answer="Not at all.")).text()
    expect(seen == "Not at all.", seen)
    expect(user.provider_got("It is mild in Paris."), user.sent())


@scenario
def structured(user: User) -> None:
    question = user.asks_for_json("The weather of Paris?", {"city": "Paris", "degrees": 22})
    seen = model(user).prompt(question, schema=Weather, stream=False).text()
    expect(json.loads(seen) == {"city": "Paris", "degrees": 22}, seen)


@scenario
def image(user: User) -> None:
    picture = llm.Attachment(type="image/png", content=PNG_BYTES)
    question = user.asks("Of which colour is this?", answer="Red.")
    seen = model(user).prompt(question, attachments=[picture]).text()
    expect(seen == "Red.", seen)
    expect(user.provider_got(PNG_URL), user.sent())


@scenario
def reasoning_given_back(user: User) -> None:
    made = model(user, reasoning=True)
    question = user.asks_for_tool("The weather of Paris?", "get_weather", {"city": "Paris"})
    seen = made.chain(question, tools=[get_weather], options={"reasoning_effort": "low"}).text()
    expect(seen == "It is mild in Paris.", seen)
    expect(user.provider_got("22 degrees in Paris"), user.sent())


@scenario
def verbosity(user: User) -> None:
    made = model(user, verbosity=True)
    seen = made.prompt(user.asks("Hello.", answer="Good day."), stream=False, options={"verbosity": "low"}).text()
    expect(seen == "Good day.", seen)


@scenario
def empty_held(user: User) -> None:
    model(user).prompt(user.asks_for_nothing(), stream=False).text()


@scenario
def empty_streamed(user: User) -> None:
    model(user).prompt(user.asks_for_nothing()).text()
