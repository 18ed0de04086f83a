"""Instructor over the OpenAI SDK, in its Responses mode."""

from typing import Any

import instructor
from instructor.processing.multimodal import Image
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel, field_validator

from tests.clients.python.user import MODEL, PNG_URL, User, expect, run_async, scenario

PACKAGES = ("instructor", "openai")

# the provider reads this in the complaint that Instructor sends it
RIGHT = r'[[sim: tool-call name=Weather arguments="{\"city\": \"Paris\", \"degrees\": 22}"]]'


class Weather(BaseModel):
    """The weather of a city."""

    city: str
    degrees: int

    @field_validator("degrees")
    @classmethod
    def _plausible(cls, degrees: int) -> int:
        if degrees > 100:
            raise ValueError(f"too hot to be true {RIGHT}")
        return degrees


def is_mild(weather: Weather) -> bool:
    # Instructor answers in classes of its own making
    return weather.model_dump() == {"city": "Paris", "degrees": 22}


def client(user: User, mode: instructor.Mode = instructor.Mode.RESPONSES_TOOLS) -> Any:
    return instructor.from_openai(OpenAI(base_url=user.base_url, api_key=user.api_key), mode=mode)


def asks(user: User, **arguments: Any) -> list[Any]:
    question = user.asks_for_tool("The weather of Paris?", "Weather", {"city": "Paris", "degrees": 22, **arguments})
    return [{"role": "user", "content": question}]


@scenario
def structured(user: User) -> None:
    weather = client(user).responses.create(model=MODEL, input=asks(user), response_model=Weather)
    expect(is_mild(weather), weather)


@scenario
def structured_of_string(user: User) -> None:
    question = asks(user)[0]["content"]
    weather = client(user).responses.create(model=MODEL, input=question, response_model=Weather)
    expect(is_mild(weather), weather)


@scenario
def structured_async(user: User) -> None:
    async def asked() -> Any:
        made = instructor.from_openai(
            AsyncOpenAI(base_url=user.base_url, api_key=user.api_key), mode=instructor.Mode.RESPONSES_TOOLS
        )
        return await made.responses.create(model=MODEL, input=asks(user), response_model=Weather)

    weather = run_async(asked())
    expect(is_mild(weather), weather)


@scenario
def structured_with_inbuilt_tools(user: User) -> None:
    made = client(user, instructor.Mode.RESPONSES_TOOLS_WITH_INBUILT_TOOLS)
    weather = made.responses.create(model=MODEL, input=asks(user), response_model=Weather)
    expect(is_mild(weather), weather)


@scenario
def from_provider(user: User) -> None:
    made = instructor.from_provider(
        f"openai/{MODEL}", mode=instructor.Mode.RESPONSES_TOOLS, base_url=user.base_url, api_key=user.api_key
    )
    weather = made.create(messages=asks(user), response_model=Weather)
    expect(is_mild(weather), weather)


@scenario
def with_completion(user: User) -> None:
    weather, raw = client(user).responses.create_with_completion(model=MODEL, input=asks(user), response_model=Weather)
    expect(is_mild(weather) and raw.status == "completed", raw)


@scenario
def stream(user: User) -> None:
    parts = client(user).responses.create_partial(model=MODEL, input=asks(user), response_model=Weather)
    seen = list(parts)
    expect(is_mild(seen[-1]), seen)


@scenario
def instructions(user: User) -> None:
    weather = client(user).responses.create(
        model=MODEL, instructions="You are a parrot.", input=asks(user), response_model=Weather
    )
    expect(is_mild(weather), weather)
    expect(user.provider_got("You are a parrot."), user.sent())


@scenario
def history(user: User) -> None:
    given = [
        {"role": "system", "content": "You are a parrot."},
        {"role": "user", "content": f"Where am I? {user.tag}"},
        {"role": "assistant", "content": "In Paris."},
    ]
    weather = client(user).responses.create(model=MODEL, input=[*given, *asks(user)], response_model=Weather)
    expect(is_mild(weather), weather)
    expect(user.provider_got("In Paris."), user.sent())


@scenario
def asked_again(user: User) -> None:
    question = user.asks_for_tool("How hot is it?", "Weather", {"city": "Paris", "degrees": 2200})
    seen: list[str] = []
    made = client(user)
    made.on("parse:error", lambda error, **_: seen.append(str(error)))
    weather = made.responses.create(model=MODEL, input=question, response_model=Weather, max_retries=2)
    expect(is_mild(weather), weather)
    expect(len(seen) == 1 and "too hot" in seen[0], seen)


@scenario
def image(user: User) -> None:
    question = asks(user)[0]["content"]
    weather = client(user).responses.create(
        model=MODEL,
        input=[{"role": "user", "content": [question, Image.from_base64(PNG_URL)]}],
        response_model=Weather,
    )
    expect(is_mild(weather), weather)
    expect(user.provider_got(PNG_URL), user.sent())


@scenario
def empty_held(user: User) -> None:
    client(user).responses.create(model=MODEL, input=user.asks_for_nothing(), response_model=Weather)


@scenario
def empty_streamed(user: User) -> None:
    list(client(user).responses.create_partial(model=MODEL, input=user.asks_for_nothing(), response_model=Weather))
