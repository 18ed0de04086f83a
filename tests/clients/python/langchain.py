"""LangChain's ChatOpenAI in its Responses mode, and LangGraph's agents over it."""

from typing import Any

from langchain.agents import create_agent
from langchain.agents.structured_output import ProviderStrategy, ToolStrategy
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import InMemorySaver
from pydantic import BaseModel, Field

from tests.clients.python.user import (
    MODEL,
    PNG,
    PNG_URL,
    User,
    expect,
    needs_state,
    result_of_tool,
    result_that_calls,
    run_async,
    scenario,
)

PACKAGES = ("langchain-openai", "langchain", "langgraph")


class Weather(BaseModel):
    """The weather of a city."""

    city: str = Field(description="the city's name")
    degrees: int
    sky: str | None = None


@tool
def get_weather(city: str, unit: str = "celsius") -> str:
    """Get the weather of a city."""
    return result_of_tool(f"22 degrees in {city}", answer=f"It is mild in {city}.")


@tool
def get_time(city: str = "Paris") -> str:
    """Get the time of a city."""
    return f"noon in {city}"


@tool
def get_station(region: str) -> str:
    """Get the weather station of a region."""
    return result_that_calls(f"Paris is the station of {region}", "get_weather", {"city": "Paris"})


TOOLS = {"get_weather": get_weather, "get_time": get_time, "get_station": get_station}


def chat(user: User, **options: Any) -> ChatOpenAI:
    return ChatOpenAI(model=MODEL, base_url=user.base_url, api_key=user.api_key, use_responses_api=True, **options)


@scenario
def text(user: User) -> None:
    answer = chat(user).invoke(user.asks("Hello.", answer="Good day."))
    expect(answer.text == "Good day.", answer)
    expect(answer.usage_metadata and answer.usage_metadata["output_tokens"] > 0, answer.usage_metadata)


@scenario
def text_async(user: User) -> None:
    answer = run_async(chat(user).ainvoke(user.asks("Hello.", answer="Good day.")))
    expect(answer.text == "Good day.", answer)


@scenario
def stream(user: User) -> None:
    chunks = list(chat(user).stream(user.asks("Hello.", answer="Good day to all of you.")))
    expect("".join(chunk.text for chunk in chunks) == "Good day to all of you.", chunks)


@scenario
def stream_async(user: User) -> None:
    async def collected() -> str:
        return "".join(
            [chunk.text async for chunk in chat(user).astream(user.asks("Hello.", answer="Good day to all of you."))]
        )

    seen = run_async(collected())
    expect(seen == "Good day to all of you.", seen)


@scenario
def batch(user: User) -> None:
    answers = chat(user).batch([user.asks("One.", answer="First."), user.asks("Two.", answer="Second.")])
    expect([answer.text for answer in answers] == ["First.", "Second."], answers)


@scenario
def instructions(user: User) -> None:
    messages = [SystemMessage("You are a parrot."), HumanMessage(user.asks("Hello.", answer="Good day."))]
    answer = chat(user).invoke(messages)
    expect(answer.text == "Good day.", answer)
    expect(user.provider_got("You are a parrot."), user.sent())


def _loop(user: User, model: Any, question: str) -> list[BaseMessage]:
    messages: list[BaseMessage] = [HumanMessage(question)]
    for _ in range(3):
        answer = model.invoke(messages)
        messages.append(answer)
        if not answer.tool_calls:
            return messages
        messages += [TOOLS[call["name"]].invoke(call) for call in answer.tool_calls]
    raise AssertionError(f"the tool is called for ever: {messages!r}")


@scenario
def tool_loop(user: User) -> None:
    question = user.asks_for_tool("The weather of Paris?", "get_weather", {"city": "Paris"})
    messages = _loop(user, chat(user).bind_tools([get_weather]), question)
    expect(messages[-1].text == "It is mild in Paris.", messages)
    expect(isinstance(messages[-2], ToolMessage), messages)
    expect(user.provider_got("22 degrees in Paris"), user.sent())


@scenario
def tool_loop_strict(user: User) -> None:
    question = user.asks_for_tool("The weather of Paris?", "get_weather", {"city": "Paris", "unit": "celsius"})
    messages = _loop(user, chat(user).bind_tools([get_weather], strict=True, tool_choice="auto"), question)
    expect(messages[-1].text == "It is mild in Paris.", messages)


@scenario
def tool_loop_streamed(user: User) -> None:
    model = chat(user).bind_tools([get_weather])
    messages: list[BaseMessage] = [
        HumanMessage(user.asks_for_tool("The weather of Paris?", "get_weather", {"city": "Paris"}))
    ]
    for _ in range(2):
        whole: Any = None
        for chunk in model.stream(messages):
            whole = chunk if whole is None else whole + chunk
        messages.append(whole)
        messages += [get_weather.invoke(call) for call in whole.tool_calls]
    expect(messages[-1].text == "It is mild in Paris.", messages)


@scenario
def parallel_tools(user: User) -> None:
    model = chat(user).bind_tools(list(TOOLS.values()), parallel_tool_calls=True)
    messages = _loop(user, model, user.asks_for_tools("get_weather", "get_time"))
    expect(len([each for each in messages if isinstance(each, ToolMessage)]) == 2, messages)
    expect(user.provider_got("22 degrees in") and user.provider_got("noon in"), user.sent())


@scenario
def history(user: User) -> None:
    model = chat(user)
    messages: list[BaseMessage] = [HumanMessage(user.asks("My name is Ada.", answer="Hello, Ada."))]
    messages.append(model.invoke(messages))
    messages.append(HumanMessage(user.asks("What is my name?", answer="Ada.")))
    answer = model.invoke(messages)
    expect(answer.text == "Ada.", answer)
    expect(user.provider_got("Hello, Ada."), user.sent())


@scenario
def history_of_others(user: User) -> None:
    answer = chat(user).invoke(
        [
            ("system", "Be brief."),
            ("user", f"My name is Ada. {user.tag}"),
            AIMessage("Hello, Ada."),
            ("user", user.asks("What is my name?", answer="Ada.")),
        ]
    )
    expect(answer.text == "Ada.", answer)
    expect(user.provider_got("Hello, Ada."), user.sent())


@scenario
def history_of_blocks(user: User) -> None:
    answer = chat(user, output_version="v1").invoke(
        [
            HumanMessage(f"My name is Ada. {user.tag}"),
            AIMessage(content=[{"type": "text", "text": "Hello, Ada."}]),
            HumanMessage(user.asks("What is my name?", answer="Ada.")),
        ]
    )
    expect(answer.text == "Ada.", answer)
    expect(user.provider_got("Hello, Ada."), user.sent())


@scenario
@needs_state
def previous_response_id(user: User) -> None:
    model = chat(user)
    first = model.invoke(user.asks("My name is Ada.", answer="Hello, Ada."))
    second = model.invoke(
        [HumanMessage(user.asks("What is my name?", answer="Ada."))],
        previous_response_id=first.response_metadata["id"],
    )
    expect(second.text == "Ada.", second)
    expect(user.provider_got("Hello, Ada."), user.sent())


@scenario
@needs_state
def tool_loop_by_previous_response_id(user: User) -> None:
    question = user.asks_for_tool("The weather of Paris?", "get_weather", {"city": "Paris"})
    messages = _loop(user, chat(user, use_previous_response_id=True).bind_tools([get_weather]), question)
    expect(messages[-1].text == "It is mild in Paris.", messages)
    expect(user.provider_got("22 degrees in Paris") and user.provider_got("The weather of Paris?"), user.sent())


@scenario
@needs_state
def three_turns(user: User) -> None:
    question = user.asks_for_tool("The weather of France?", "get_station", {"region": "France"})
    as_blocks = {"output_version": "responses/v1", "reasoning": {"effort": "low"}}
    for way in ({}, as_blocks, {"use_previous_response_id": True}):
        messages = _loop(user, chat(user, **way).bind_tools([get_station, get_weather]), question)
        expect(messages[-1].text == "It is mild in Paris.", messages)
        expect(len([each for each in messages if isinstance(each, ToolMessage)]) == 2, messages)
        expect(user.provider_got("22 degrees in Paris") and user.provider_got("station of France"), user.sent())


@scenario
def structured(user: User) -> None:
    question = user.asks_for_json("The weather of Paris?", {"city": "Paris", "degrees": 22, "sky": None})
    weather = chat(user).with_structured_output(Weather).invoke(question)
    expect(weather == Weather(city="Paris", degrees=22), weather)


@scenario
def structured_by_tool(user: User) -> None:
    question = user.asks_for_tool("The weather of Paris?", "Weather", {"city": "Paris", "degrees": 22})
    weather = chat(user).with_structured_output(Weather, method="function_calling").invoke(question)
    expect(weather == Weather(city="Paris", degrees=22), weather)


@scenario
def json_mode(user: User) -> None:
    question = user.asks_for_json("The weather of Paris in JSON?", {"city": "Paris", "degrees": 22})
    weather = chat(user).with_structured_output(Weather, method="json_mode").invoke(question)
    expect(weather == Weather(city="Paris", degrees=22), weather)


@scenario
def image(user: User) -> None:
    message = HumanMessage(
        content=[
            {"type": "text", "text": user.asks("Of which colour is this?", answer="Red.")},
            {"type": "image", "base64": PNG, "mime_type": "image/png"},
        ]
    )
    answer = chat(user).invoke([message])
    expect(answer.text == "Red.", answer)
    expect(user.provider_got(PNG_URL), user.sent())


@scenario
def image_of_chat_completions(user: User) -> None:
    message = HumanMessage(
        content=[
            {"type": "text", "text": user.asks("Of which colour is this?", answer="Red.")},
            {"type": "image_url", "image_url": {"url": PNG_URL}},
        ]
    )
    answer = chat(user).invoke([message])
    expect(answer.text == "Red.", answer)
    expect(user.provider_got(PNG_URL), user.sent())


@scenario
def reasoning_given_back(user: User) -> None:
    model = chat(
        user,
        reasoning={"effort": "low", "summary": "auto"},
        include=["reasoning.encrypted_content"],
        store=False,
        output_version="responses/v1",
    )
    question = user.asks_for_tool("The weather of Paris?", "get_weather", {"city": "Paris"})
    messages = _loop(user, model.bind_tools([get_weather]), question)
    expect(messages[-1].text == "It is mild in Paris.", messages)
    expect(any(block["type"] == "reasoning" for block in messages[1].content_blocks), messages[1])


@scenario
def verbosity(user: User) -> None:
    answer = chat(user, verbosity="low").invoke(user.asks("Hello.", answer="Good day."))
    expect(answer.text == "Good day.", answer)


@scenario
def agent(user: User) -> None:
    made = create_agent(chat(user), tools=[get_weather], system_prompt="You are a parrot.")
    question = user.asks_for_tool("The weather of Paris?", "get_weather", {"city": "Paris"})
    messages = made.invoke({"messages": [{"role": "user", "content": question}]})["messages"]
    expect(messages[-1].text == "It is mild in Paris.", messages)


@scenario
def agent_streamed(user: User) -> None:
    made = create_agent(chat(user, streaming=True), tools=[get_weather])
    question = user.asks_for_tool("The weather of Paris?", "get_weather", {"city": "Paris"})
    seen = [
        message.text
        for message, _ in made.stream({"messages": [HumanMessage(question)]}, stream_mode="messages")
        if isinstance(message, AIMessage)
    ]
    expect("".join(seen) == "It is mild in Paris.", seen)


@scenario
def agent_with_memory(user: User) -> None:
    made = create_agent(chat(user), tools=[get_weather], checkpointer=InMemorySaver())
    thread: Any = {"configurable": {"thread_id": "1"}}
    question = user.asks_for_tool("The weather of Paris?", "get_weather", {"city": "Paris"})
    made.invoke({"messages": [HumanMessage(question)]}, thread)
    said = made.invoke({"messages": [HumanMessage(user.asks("Thank you.", answer="Not at all."))]}, thread)
    expect(said["messages"][-1].text == "Not at all.", said)
    expect(user.provider_got("It is mild in Paris."), user.sent())


@scenario
def agent_structured(user: User) -> None:
    made = create_agent(chat(user), tools=[get_weather], response_format=ProviderStrategy(Weather))
    question = user.asks_for_json("The weather of Paris?", {"city": "Paris", "degrees": 22, "sky": None})
    said = made.invoke({"messages": [HumanMessage(question)]})
    expect(said["structured_response"] == Weather(city="Paris", degrees=22), said)


@scenario
def agent_structured_by_tool(user: User) -> None:
    made = create_agent(chat(user), tools=[get_weather], response_format=ToolStrategy(Weather))
    question = user.asks_for_tool("The weather of Paris?", "Weather", {"city": "Paris", "degrees": 22})
    said = made.invoke({"messages": [HumanMessage(question)]})
    expect(said["structured_response"] == Weather(city="Paris", degrees=22), said)


@scenario
def empty_held(user: User) -> None:
    chat(user).invoke(user.asks_for_nothing())


@scenario
def empty_streamed(user: User) -> None:
    list(chat(user).stream(user.asks_for_nothing()))
