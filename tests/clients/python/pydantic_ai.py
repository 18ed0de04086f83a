"""Pydantic AI with OpenAIResponsesModel."""

from typing import Any

from pydantic import BaseModel
from pydantic_ai import (
    Agent,
    BinaryContent,
    ImageUrl,
    ModelRequest,
    ModelResponse,
    NativeOutput,
    TextPart,
    UserPromptPart,
)
from pydantic_ai.models.openai import OpenAIResponsesModel, OpenAIResponsesModelSettings
from pydantic_ai.providers.openai import OpenAIProvider

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

PACKAGES = ("pydantic-ai-slim", "openai")


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


def agent(user: User, name: str = MODEL, **options: Any) -> Agent[None, Any]:
    model = OpenAIResponsesModel(name, provider=OpenAIProvider(base_url=user.base_url, api_key=user.api_key))
    return Agent(model, **options)


def run(made: Agent[None, Any], *given: Any, **options: Any) -> Any:
    return run_async(made.run(*given, **options))


@scenario
def text(user: User) -> None:
    result = run(agent(user), user.asks("Hello.", answer="Good day."))
    expect(result.output == "Good day.", result)
    expect(result.usage.output_tokens > 0, result.usage)


@scenario
def text_of_bare_model(user: User) -> None:
    result = run(agent(user, BARE_MODEL), user.asks("Hello.", answer="Good day."))
    expect(result.output == "Good day.", result)


@scenario
def stream(user: User) -> None:
    async def streamed() -> list[str]:
        async with agent(user).run_stream(user.asks("Hello.", answer="Good day to all of you.")) as result:
            return [delta async for delta in result.stream_text(delta=True)]

    seen = run_async(streamed())
    expect("".join(seen) == "Good day to all of you.", seen)


@scenario
def instructions(user: User) -> None:
    result = run(agent(user, instructions="You are a parrot."), user.asks("Hello.", answer="Good day."))
    expect(result.output == "Good day.", result)
    expect(user.provider_got("You are a parrot."), user.sent())


@scenario
def system_prompt(user: User) -> None:
    result = run(agent(user, system_prompt="You are a parrot."), user.asks("Hello.", answer="Good day."))
    expect(result.output == "Good day.", result)
    expect(user.provider_got("You are a parrot."), user.sent())


@scenario
def tool_loop(user: User) -> None:
    question = user.asks_for_tool("The weather of Paris?", "get_weather", {"city": "Paris"})
    result = run(agent(user, tools=[get_weather]), question)
    expect(result.output == "It is mild in Paris.", result)
    expect(user.provider_got("22 degrees in Paris"), user.sent())


@scenario
def tool_loop_of_bare_model(user: User) -> None:
    question = user.asks_for_tool("The weather of Paris?", "get_weather", {"city": "Paris"})
    result = run(agent(user, BARE_MODEL, tools=[get_weather]), question)
    expect(result.output == "It is mild in Paris.", result)


@scenario
def tool_loop_streamed(user: User) -> None:
    async def streamed() -> str:
        question = user.asks_for_tool("The weather of Paris?", "get_weather", {"city": "Paris"})
        async with agent(user, tools=[get_weather]).run_stream(question) as result:
            return str(await result.get_output())

    seen = run_async(streamed())
    expect(seen == "It is mild in Paris.", seen)


@scenario
def parallel_tools(user: User) -> None:
    settings = OpenAIResponsesModelSettings(parallel_tool_calls=True)
    made = agent(user, tools=[get_weather, get_time], model_settings=settings)
    result = run(made, user.asks_for_tools("get_weather", "get_time"))
    expect(result.output, result)
    expect(user.provider_got("22 degrees in") and user.provider_got("noon in"), user.sent())


@scenario
def history(user: User) -> None:
    first = run(agent(user), user.asks("My name is Ada.", answer="Hello, Ada."))
    second = run(agent(user), user.asks("What is my name?", answer="Ada."), message_history=first.all_messages())
    expect(second.output == "Ada.", second)
    expect(user.provider_got("Hello, Ada."), user.sent())


@scenario
def history_of_bare_model(user: User) -> None:
    first = run(agent(user, BARE_MODEL), user.asks("My name is Ada.", answer="Hello, Ada."))
    question = user.asks("What is my name?", answer="Ada.")
    second = run(agent(user, BARE_MODEL), question, message_history=first.all_messages())
    expect(second.output == "Ada.", second)
    expect(user.provider_got("Hello, Ada."), user.sent())


@scenario
def history_of_others(user: User) -> None:
    messages = [
        ModelRequest(parts=[UserPromptPart(content=f"My name is Ada. {user.tag}")]),
        ModelResponse(parts=[TextPart(content="Hello, Ada.")]),
    ]
    result = run(agent(user), user.asks("What is my name?", answer="Ada."), message_history=messages)
    expect(result.output == "Ada.", result)
    expect(user.provider_got("Hello, Ada."), user.sent())


@scenario
def history_with_tools(user: User) -> None:
    question = user.asks_for_tool("The weather of Paris?", "get_weather", {"city": "Paris"})
    first = run(agent(user, tools=[get_weather]), question)
    thanks = user.asks("Thank you.", answer="Not at all.")
    second = run(agent(user, tools=[get_weather]), thanks, message_history=first.all_messages())
    expect(second.output == "Not at all.", second)
    expect(user.provider_got("It is mild in Paris."), user.sent())


@scenario
@needs_state
def previous_response_id(user: User) -> None:
    first = run(agent(user), user.asks("My name is Ada.", answer="Hello, Ada."))
    settings = OpenAIResponsesModelSettings(openai_previous_response_id=first.response.provider_response_id)
    second = run(agent(user), user.asks("What is my name?", answer="Ada."), model_settings=settings)
    expect(second.output == "Ada.", second)
    expect(user.provider_got("Hello, Ada."), user.sent())


@scenario
@needs_state
def tool_loop_by_previous_response_id(user: User) -> None:
    settings = OpenAIResponsesModelSettings(openai_previous_response_id="auto")
    question = user.asks_for_tool("The weather of Paris?", "get_weather", {"city": "Paris"})
    first = run(agent(user, tools=[get_weather]), question, model_settings=settings)
    expect(first.output == "It is mild in Paris.", first)
    thanks = user.asks("Thank you.", answer="Not at all.")
    made = agent(user, tools=[get_weather])
    second = run(made, thanks, message_history=first.all_messages(), model_settings=settings)
    expect(second.output == "Not at all.", second)
    expect(user.provider_got("It is mild in Paris."), user.sent())


@scenario
@needs_state
def background(user: User) -> None:
    settings = OpenAIResponsesModelSettings(openai_background=True)
    result = run(agent(user), user.asks("Hello.", answer="Good day."), model_settings=settings)
    expect(result.output == "Good day.", result)


@scenario
@needs_state
def background_streamed(user: User) -> None:
    async def streamed() -> str:
        settings = OpenAIResponsesModelSettings(openai_background=True)
        question = user.asks("Hello.", answer="Good day.")
        async with agent(user).run_stream(question, model_settings=settings) as result:
            return str(await result.get_output())

    seen = run_async(streamed())
    expect(seen == "Good day.", seen)


@scenario
def structured_by_tool(user: User) -> None:
    question = user.asks_for_tool("The weather of Paris?", "final_result", {"city": "Paris", "degrees": 22})
    result = run(agent(user, output_type=Weather), question)
    expect(result.output == Weather(city="Paris", degrees=22), result)


@scenario
def structured(user: User) -> None:
    question = user.asks_for_json("The weather of Paris?", {"city": "Paris", "degrees": 22})
    result = run(agent(user, output_type=NativeOutput(Weather)), question)
    expect(result.output == Weather(city="Paris", degrees=22), result)


@scenario
def image(user: User) -> None:
    question = user.asks("Of which colour is this?", answer="Red.")
    result = run(agent(user), [question, BinaryContent(data=PNG_BYTES, media_type="image/png")])
    expect(result.output == "Red.", result)
    expect(user.provider_got(PNG_URL), user.sent())


@scenario
def image_by_url(user: User) -> None:
    question = user.asks("Of which colour is this?", answer="Red.")
    result = run(agent(user), [question, ImageUrl(url="https://example.com/red.png")])
    expect(result.output == "Red.", result)
    expect(user.provider_got("https://example.com/red.png"), user.sent())


@scenario
def reasoning_given_back(user: User) -> None:
    settings = OpenAIResponsesModelSettings(
        openai_reasoning_effort="low", openai_reasoning_summary="auto", openai_text_verbosity="low"
    )
    question = user.asks_for_tool("The weather of Paris?", "get_weather", {"city": "Paris"})
    first = run(agent(user, BARE_MODEL, tools=[get_weather], model_settings=settings), question)
    thanks = user.asks("Thank you.", answer="Not at all.")
    made = agent(user, BARE_MODEL, tools=[get_weather], model_settings=settings)
    second = run(made, thanks, message_history=first.all_messages())
    expect(second.output == "Not at all.", second)


@scenario
def verbosity(user: User) -> None:
    settings = OpenAIResponsesModelSettings(openai_text_verbosity="low")
    result = run(agent(user), user.asks("Hello.", answer="Good day."), model_settings=settings)
    expect(result.output == "Good day.", result)


@scenario
def empty_held(user: User) -> None:
    run(agent(user), user.asks_for_nothing())


@scenario
def empty_streamed(user: User) -> None:
    async def streamed() -> None:
        async with agent(user).run_stream(user.asks_for_nothing()) as result:
            await result.get_output()

    run_async(streamed())
