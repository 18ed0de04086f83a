"""The OpenAI Agents SDK with its Responses model."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from agents import (
    Agent,
    ModelSettings,
    OpenAIResponsesModel,
    Runner,
    SQLiteSession,
    function_tool,
    handoff,
    set_tracing_disabled,
)
from openai import AsyncOpenAI
from openai.types.shared import Reasoning
from pydantic import BaseModel

from tests.clients.python.user import (
    MODEL,
    PNG_URL,
    User,
    expect,
    needs_state,
    result_of_tool,
    result_that_calls,
    run_async,
    scenario,
)

PACKAGES = ("openai-agents", "openai")
set_tracing_disabled(disabled=True)  # the default sends traces to OpenAI


class Weather(BaseModel):
    """The weather of a city."""

    city: str
    degrees: int


@function_tool
def get_weather(city: str) -> str:
    """Get the weather of a city."""
    return result_of_tool(f"22 degrees in {city}", answer=f"It is mild in {city}.")


@function_tool
def get_station(region: str) -> str:
    """Get the weather station of a region."""
    return result_that_calls(f"Paris is the station of {region}", "get_weather", {"city": "Paris"})


@function_tool
def get_time(city: str = "Paris") -> str:
    """Get the time of a city."""
    return f"noon in {city}"


@function_tool(strict_mode=False)
def get_loose_weather(city: str, unit: str = "celsius") -> str:
    """Get the weather of a city, in any unit."""
    return result_of_tool(f"22 degrees in {city}", answer=f"It is mild in {city}.")


def agent(user: User, **options: Any) -> Agent[Any]:
    model = OpenAIResponsesModel(model=MODEL, openai_client=AsyncOpenAI(base_url=user.base_url, api_key=user.api_key))
    return Agent(name="Assistant", model=model, **options)


def run(act: Coroutine[Any, Any, Any]) -> Any:
    return run_async(act)


@scenario
def text(user: User) -> None:
    result = run(Runner.run(agent(user), user.asks("Hello.", answer="Good day.")))
    expect(result.final_output == "Good day.", result)
    expect(result.context_wrapper.usage.output_tokens > 0, result.context_wrapper.usage)


@scenario
def text_sync(user: User) -> None:
    asyncio.set_event_loop(asyncio.new_event_loop())
    result = Runner.run_sync(agent(user), user.asks("Hello.", answer="Good day."))
    expect(result.final_output == "Good day.", result)


async def _streamed(made: Agent[Any], question: Any) -> tuple[str, Any]:
    result = Runner.run_streamed(made, question)
    deltas = [
        event.data.delta
        async for event in result.stream_events()
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta"
    ]
    return "".join(deltas), result.final_output


@scenario
def stream(user: User) -> None:
    seen = run(_streamed(agent(user), user.asks("Hello.", answer="Good day to all of you.")))
    expect(seen == ("Good day to all of you.",) * 2, seen)


@scenario
def instructions(user: User) -> None:
    result = run(Runner.run(agent(user, instructions="You are a parrot."), user.asks("Hello.", answer="Good day.")))
    expect(result.final_output == "Good day.", result)
    expect(user.provider_got("You are a parrot."), user.sent())


@scenario
def tool_loop(user: User) -> None:
    question = user.asks_for_tool("The weather of Paris?", "get_weather", {"city": "Paris"})
    result = run(Runner.run(agent(user, tools=[get_weather]), question))
    expect(result.final_output == "It is mild in Paris.", result)
    expect(user.provider_got("22 degrees in Paris"), user.sent())


@scenario
def tool_loop_not_strict(user: User) -> None:
    question = user.asks_for_tool("The weather of Paris?", "get_loose_weather", {"city": "Paris"})
    result = run(Runner.run(agent(user, tools=[get_loose_weather]), question))
    expect(result.final_output == "It is mild in Paris.", result)


@scenario
def tool_loop_streamed(user: User) -> None:
    question = user.asks_for_tool("The weather of Paris?", "get_weather", {"city": "Paris"})
    seen = run(_streamed(agent(user, tools=[get_weather]), question))
    expect(seen == ("It is mild in Paris.",) * 2, seen)


@scenario
def parallel_tools(user: User) -> None:
    settings = ModelSettings(parallel_tool_calls=True)
    made = agent(user, tools=[get_weather, get_time], model_settings=settings)
    result = run(Runner.run(made, user.asks_for_tools("get_weather", "get_time")))
    expect(result.final_output, result)
    expect(user.provider_got("22 degrees in") and user.provider_got("noon in"), user.sent())


@scenario
def history(user: User) -> None:
    made = agent(user)
    first = run(Runner.run(made, user.asks("My name is Ada.", answer="Hello, Ada.")))
    question = {"role": "user", "content": user.asks("What is my name?", answer="Ada.")}
    second = run(Runner.run(agent(user), [*first.to_input_list(), question]))
    expect(second.final_output == "Ada.", second)
    expect(user.provider_got("Hello, Ada."), user.sent())


@scenario
def history_of_others(user: User) -> None:
    items: list[Any] = [
        {"role": "user", "content": f"My name is Ada. {user.tag}"},
        {"role": "assistant", "content": "Hello, Ada."},
        {"role": "user", "content": user.asks("What is my name?", answer="Ada.")},
    ]
    result = run(Runner.run(agent(user), items))
    expect(result.final_output == "Ada.", result)
    expect(user.provider_got("Hello, Ada."), user.sent())


@scenario
def session(user: User) -> None:
    async def talk() -> Any:
        made, memory = agent(user, tools=[get_weather]), SQLiteSession("ada")
        question = user.asks_for_tool("The weather of Paris?", "get_weather", {"city": "Paris"})
        await Runner.run(made, question, session=memory)
        return await Runner.run(made, user.asks("Thank you.", answer="Not at all."), session=memory)

    result = run(talk())
    expect(result.final_output == "Not at all.", result)
    expect(user.provider_got("It is mild in Paris."), user.sent())


@scenario
@needs_state
def previous_response_id(user: User) -> None:
    first = run(Runner.run(agent(user), user.asks("My name is Ada.", answer="Hello, Ada.")))
    question = user.asks("What is my name?", answer="Ada.")
    second = run(Runner.run(agent(user), question, previous_response_id=first.last_response_id))
    expect(second.final_output == "Ada.", second)
    expect(user.provider_got("Hello, Ada."), user.sent())


@scenario
@needs_state
def tool_loop_by_previous_response_id(user: User) -> None:
    question = user.asks_for_tool("The weather of Paris?", "get_weather", {"city": "Paris"})
    result = run(Runner.run(agent(user, tools=[get_weather]), question, auto_previous_response_id=True))
    expect(result.final_output == "It is mild in Paris.", result)
    expect(user.provider_got("The weather of Paris?") and user.provider_got("22 degrees in Paris"), user.sent())


@scenario
@needs_state
def three_turns(user: User) -> None:
    question = user.asks_for_tool("The weather of France?", "get_station", {"region": "France"})
    for by_response in (False, True):
        made = agent(user, tools=[get_station, get_weather])
        result = run(Runner.run(made, question, auto_previous_response_id=by_response))
        expect(result.final_output == "It is mild in Paris.", result)
        expect(len(result.raw_responses) == 3, result.raw_responses)
        expect(user.provider_got("22 degrees in Paris") and user.provider_got("station of France"), user.sent())


@scenario
def structured(user: User) -> None:
    question = user.asks_for_json("The weather of Paris?", {"city": "Paris", "degrees": 22})
    result = run(Runner.run(agent(user, output_type=Weather), question))
    expect(result.final_output == Weather(city="Paris", degrees=22), result)


@scenario
def image(user: User) -> None:
    content = [
        {"type": "input_text", "text": user.asks("Of which colour is this?", answer="Red.")},
        {"type": "input_image", "image_url": PNG_URL, "detail": "auto"},
    ]
    items: list[Any] = [{"role": "user", "content": content}]
    result = run(Runner.run(agent(user), items))
    expect(result.final_output == "Red.", result)
    expect(user.provider_got(PNG_URL), user.sent())


@scenario
def image_without_detail(user: User) -> None:
    content = [
        {"type": "input_text", "text": user.asks("Of which colour is this?", answer="Red.")},
        {"type": "input_image", "image_url": PNG_URL},
    ]
    items: list[Any] = [{"role": "user", "content": content}]
    result = run(Runner.run(agent(user), items))
    expect(result.final_output == "Red.", result)
    expect(user.provider_got(PNG_URL), user.sent())


@scenario
def reasoning_given_back(user: User) -> None:
    settings = ModelSettings(
        reasoning=Reasoning(effort="low", summary="auto"),
        response_include=["reasoning.encrypted_content"],
        store=False,
        verbosity="low",
    )
    made = agent(user, tools=[get_weather], model_settings=settings)
    question = user.asks_for_tool("The weather of Paris?", "get_weather", {"city": "Paris"})
    first = run(Runner.run(made, question))
    expect(any(item.type == "reasoning_item" for item in first.new_items), first.new_items)
    again = {"role": "user", "content": user.asks("Thank you.", answer="Not at all.")}
    made = agent(user, tools=[get_weather], model_settings=settings)
    second = run(Runner.run(made, [*first.to_input_list(), again]))
    expect(second.final_output == "Not at all.", second)


@scenario
def verbosity(user: User) -> None:
    made = agent(user, model_settings=ModelSettings(verbosity="low"))
    result = run(Runner.run(made, user.asks("Hello.", answer="Good day.")))
    expect(result.final_output == "Good day.", result)


@scenario
def handoffs(user: User) -> None:
    expert = agent(user, handoff_description="Knows the weather.", instructions="You know the weather.")
    expert.name = "Weather expert"
    made = agent(user, handoffs=[handoff(expert)])
    question = user.asks_for_tool("The weather of Paris?", "transfer_to_weather_expert", {})
    result = run(Runner.run(made, question))
    expect(result.last_agent.name == "Weather expert", result)
    expect(isinstance(result.final_output, str) and result.final_output, result)


@scenario
def empty_held(user: User) -> None:
    run(Runner.run(agent(user), user.asks_for_nothing(), max_turns=2))


@scenario
def empty_streamed(user: User) -> None:
    async def streamed() -> None:
        async for _ in Runner.run_streamed(agent(user), user.asks_for_nothing(), max_turns=2).stream_events():
            pass

    run(streamed())
