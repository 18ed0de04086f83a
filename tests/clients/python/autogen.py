"""AutoGen's OpenAIAgent, the one part of AutoGen that speaks the Responses API; it runs no tools of its user's."""

from typing import Any

from autogen_agentchat.messages import TextMessage
from autogen_core import CancellationToken
from autogen_ext.agents.openai import OpenAIAgent
from openai import AsyncOpenAI

from tests.clients.python.user import MODEL, User, expect, needs_state, run_async, scenario

PACKAGES = ("autogen-ext", "autogen-agentchat", "openai")


def agent(user: User, instructions: str = "Be brief.", **options: Any) -> OpenAIAgent:
    return OpenAIAgent(
        name="assistant",
        description="An assistant.",
        client=AsyncOpenAI(base_url=user.base_url, api_key=user.api_key),
        model=MODEL,
        instructions=instructions,
        **options,
    )


async def ask(made: OpenAIAgent, words: str) -> str:
    """It reports an error as its answer's text."""
    message = TextMessage(content=words, source="user")
    response = await made.on_messages([message], CancellationToken())
    return str(response.chat_message.content)  # type: ignore[attr-defined, unused-ignore]


@scenario
def text(user: User) -> None:
    seen = run_async(ask(agent(user), user.asks("Hello.", answer="Good day.")))
    expect(seen == "Good day.", seen)


@scenario
def run(user: User) -> None:
    result = run_async(agent(user).run(task=user.asks("Hello.", answer="Good day.")))
    expect(result.messages[-1].content == "Good day.", result)


@scenario
def stream(user: User) -> None:
    async def streamed() -> Any:
        return [part async for part in agent(user).run_stream(task=user.asks("Hello.", answer="Good day."))]

    parts = run_async(streamed())
    expect(parts[-1].messages[-1].content == "Good day.", parts)


@scenario
def instructions(user: User) -> None:
    seen = run_async(ask(agent(user, "You are a parrot."), user.asks("Hello.", answer="Good day.")))
    expect(seen == "Good day.", seen)
    expect(user.provider_got("You are a parrot."), user.sent())


@scenario
@needs_state
def history(user: User) -> None:
    """It gives its history back, and names the previous response as well."""

    async def talk() -> str:
        made = agent(user)
        await ask(made, user.asks("My name is Ada.", answer="Hello, Ada."))
        return await ask(made, user.asks("What is my name?", answer="Ada."))

    seen = run_async(talk())
    expect(seen == "Ada.", seen)
    expect(user.provider_got("Hello, Ada."), user.sent())


@scenario
@needs_state
def state_loaded(user: User) -> None:
    async def talk() -> str:
        first = agent(user)
        await ask(first, user.asks("My name is Ada.", answer="Hello, Ada."))
        second = agent(user)
        await second.load_state(await first.save_state())
        return await ask(second, user.asks("What is my name?", answer="Ada."))

    seen = run_async(talk())
    expect(seen == "Ada.", seen)
    expect(user.provider_got("Hello, Ada."), user.sent())


@scenario
def built_in_tool(user: User) -> None:
    made = agent(user, tools=["web_search_preview"])
    seen = run_async(ask(made, user.asks("Hello.", answer="Good day.")))
    expect(seen == "Good day.", seen)
    expect(user.sent()[-1]["tools"][0]["type"] == "web_search_preview", user.sent())


@scenario
def empty_held(user: User) -> None:
    run_async(ask(agent(user), user.asks_for_nothing()))
