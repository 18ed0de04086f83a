"""Semantic Kernel's OpenAIResponsesAgent."""

from collections.abc import Coroutine
from typing import Any

from openai import AsyncOpenAI
from pydantic import BaseModel
from semantic_kernel.agents import OpenAIResponsesAgent, ResponsesAgentThread
from semantic_kernel.contents import AuthorRole, ChatMessageContent, ImageContent, TextContent
from semantic_kernel.functions import kernel_function

from tests.clients.python.user import MODEL, PNG_URL, User, expect, needs_state, result_of_tool, run_async, scenario

PACKAGES = ("semantic-kernel", "openai")


class Weather(BaseModel):
    """The weather of a city."""

    city: str
    degrees: int


class WeatherPlugin:
    """What the model may call."""

    @kernel_function(description="Get the weather of a city.")
    def get_weather(self, city: str, unit: str = "celsius") -> str:
        return result_of_tool(f"22 degrees in {city}", answer=f"It is mild in {city}.")

    @kernel_function(description="Get the time of a city.")
    def get_time(self, city: str = "Paris") -> str:
        return f"noon in {city}"


def client(user: User) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=user.base_url, api_key=user.api_key)


def agent(user: User, **options: Any) -> OpenAIResponsesAgent:
    return OpenAIResponsesAgent(ai_model_id=MODEL, client=client(user), name="Assistant", **options)


def run(act: Coroutine[Any, Any, Any]) -> Any:
    return run_async(act)


def says(words: str, role: AuthorRole = AuthorRole.USER) -> ChatMessageContent:
    return ChatMessageContent(role=role, content=words)


@scenario
def text(user: User) -> None:
    seen = run(agent(user).get_response(user.asks("Hello.", answer="Good day.")))
    expect(str(seen.message) == "Good day.", seen.message)


@scenario
def text_without_store(user: User) -> None:
    seen = run(agent(user, store_enabled=False).get_response(user.asks("Hello.", answer="Good day.")))
    expect(str(seen.message) == "Good day.", seen.message)


@scenario
def stream(user: User) -> None:
    async def streamed() -> str:
        parts = agent(user).invoke_stream(user.asks("Hello.", answer="Good day to all of you."))
        return "".join([str(part.message) async for part in parts])

    seen = run(streamed())
    expect(seen == "Good day to all of you.", seen)


@scenario
def instructions(user: User) -> None:
    made = agent(user, instructions="You are a parrot.")
    seen = run(made.get_response(user.asks("Hello.", answer="Good day.")))
    expect(str(seen.message) == "Good day.", seen.message)
    expect(user.provider_got("You are a parrot."), user.sent())


@scenario
@needs_state
def tool_loop(user: User) -> None:
    """By its default the second turn refers to the first."""
    made = agent(user, plugins=[WeatherPlugin()])
    question = user.asks_for_tool("The weather of Paris?", "WeatherPlugin-get_weather", {"city": "Paris"})
    seen = run(made.get_response(question))
    expect(str(seen.message) == "It is mild in Paris.", seen.message)
    expect(user.provider_got("22 degrees in Paris"), user.sent())


@scenario
def tool_loop_without_store(user: User) -> None:
    made = agent(user, plugins=[WeatherPlugin()], store_enabled=False)
    question = user.asks_for_tool("The weather of Paris?", "WeatherPlugin-get_weather", {"city": "Paris"})
    seen = run(made.get_response(question))
    expect(str(seen.message) == "It is mild in Paris.", seen.message)
    expect(user.provider_got("22 degrees in Paris"), user.sent())


@scenario
@needs_state
def tool_loop_streamed(user: User) -> None:
    async def streamed() -> str:
        made = agent(user, plugins=[WeatherPlugin()])
        question = user.asks_for_tool("The weather of Paris?", "WeatherPlugin-get_weather", {"city": "Paris"})
        return "".join([str(part.message) async for part in made.invoke_stream(question)])

    seen = run(streamed())
    expect(seen == "It is mild in Paris.", seen)


@scenario
def parallel_tools(user: User) -> None:
    made = agent(user, plugins=[WeatherPlugin()], store_enabled=False)
    question = user.asks_for_tools("WeatherPlugin-get_weather", "WeatherPlugin-get_time")
    seen = run(made.get_response(question, parallel_tool_calls=True))
    expect(str(seen.message), seen.message)
    expect(user.provider_got("22 degrees in") and user.provider_got("noon in"), user.sent())


@scenario
@needs_state
def thread(user: User) -> None:
    async def talk() -> Any:
        made = agent(user)
        first = await made.get_response(user.asks("My name is Ada.", answer="Hello, Ada."))
        return await made.get_response(user.asks("What is my name?", answer="Ada."), thread=first.thread)

    seen = run(talk())
    expect(str(seen.message) == "Ada.", seen.message)
    expect(user.provider_got("Hello, Ada."), user.sent())


@scenario
def history(user: User) -> None:
    async def talk() -> Any:
        made = agent(user, store_enabled=False)
        memory = ResponsesAgentThread(client=client(user), enable_store=False)
        await made.get_response(user.asks("My name is Ada.", answer="Hello, Ada."), thread=memory)
        return await made.get_response(user.asks("What is my name?", answer="Ada."), thread=memory)

    seen = run(talk())
    expect(str(seen.message) == "Ada.", seen.message)
    expect(user.provider_got("Hello, Ada."), user.sent())


@scenario
def history_of_others(user: User) -> None:
    messages = [
        says(f"My name is Ada. {user.tag}"),
        says("Hello, Ada.", AuthorRole.ASSISTANT),
        says(user.asks("What is my name?", answer="Ada.")),
    ]
    seen = run(agent(user, store_enabled=False).get_response(messages))
    expect(str(seen.message) == "Ada.", seen.message)
    expect(user.provider_got("Hello, Ada."), user.sent())


@scenario
def structured(user: User) -> None:
    question = user.asks_for_json("The weather of Paris?", {"city": "Paris", "degrees": 22})
    form = OpenAIResponsesAgent.configure_response_format(Weather)
    seen = run(agent(user, text=form).get_response(question))
    expect(Weather.model_validate_json(str(seen.message)) == Weather(city="Paris", degrees=22), seen.message)


@scenario
def image(user: User) -> None:
    question = TextContent(text=user.asks("Of which colour is this?", answer="Red."))
    message = ChatMessageContent(role=AuthorRole.USER, items=[question, ImageContent(data_uri=PNG_URL)])
    seen = run(agent(user).get_response(message))
    expect(str(seen.message) == "Red.", seen.message)
    expect(user.provider_got(PNG_URL), user.sent())


@scenario
def reasoning(user: User) -> None:
    made = agent(user, reasoning={"effort": "low"})
    seen = run(made.get_response(user.asks("Hello.", answer="Good day.")))
    expect(str(seen.message) == "Good day.", seen.message)


@scenario
def empty_held(user: User) -> None:
    run(agent(user).get_response(user.asks_for_nothing()))


@scenario
def empty_streamed(user: User) -> None:
    async def streamed() -> None:
        async for _ in agent(user).invoke_stream(user.asks_for_nothing()):
            pass

    run(streamed())
