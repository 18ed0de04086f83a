"""LlamaIndex's OpenAIResponses, and its agents over it."""

from typing import Any

from llama_index.core.agent.workflow import AgentStream, FunctionAgent
from llama_index.core.base.llms.types import ChatMessage, ImageBlock, MessageRole, TextBlock, ToolCallBlock
from llama_index.core.prompts import PromptTemplate
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai import OpenAIResponses
from pydantic import BaseModel

from tests.clients.python.user import (
    BARE_MODEL,
    PNG_BYTES,
    PNG_URL,
    User,
    expect,
    needs_state,
    result_of_tool,
    run_async,
    scenario,
)

PACKAGES = ("llama-index-llms-openai", "llama-index-core", "openai")


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


TOOL = FunctionTool.from_defaults(get_weather)
TOOLS = {"get_weather": TOOL, "get_time": FunctionTool.from_defaults(get_time)}


def llm(user: User, **options: Any) -> OpenAIResponses:
    return OpenAIResponses(model=BARE_MODEL, api_base=user.base_url, api_key=user.api_key, **options)


def says(words: str, role: MessageRole = MessageRole.USER) -> ChatMessage:
    return ChatMessage(role=role, content=words)


@scenario
def text(user: User) -> None:
    answer = llm(user).complete(user.asks("Hello.", answer="Good day."))
    expect(answer.text == "Good day.", answer)


@scenario
def chat(user: User) -> None:
    answer = llm(user).chat([says(user.asks("Hello.", answer="Good day."))])
    expect(answer.message.content == "Good day.", answer)


@scenario
def text_async(user: User) -> None:
    answer = run_async(llm(user).achat([says(user.asks("Hello.", answer="Good day."))]))
    expect(answer.message.content == "Good day.", answer)


@scenario
def other_model_name(user: User) -> None:
    made = OpenAIResponses(model="openai/o3-pro", api_base=user.base_url, api_key=user.api_key, context_window=200_000)
    answer = made.chat([says(user.asks("Hello.", answer="Good day."))])
    expect(answer.message.content == "Good day.", answer)


@scenario
def stream(user: User) -> None:
    parts = list(llm(user).stream_chat([says(user.asks("Hello.", answer="Good day to all of you."))]))
    seen = "".join(part.delta or "" for part in parts)
    expect(seen == "Good day to all of you.", seen)


@scenario
def stream_async(user: User) -> None:
    async def streamed() -> str:
        parts = await llm(user).astream_chat([says(user.asks("Hello.", answer="Good day to all of you."))])
        return "".join([part.delta or "" async for part in parts])

    seen = run_async(streamed())
    expect(seen == "Good day to all of you.", seen)


@scenario
def instructions(user: User) -> None:
    made = llm(user, instructions="You are a parrot.")
    answer = made.chat([says(user.asks("Hello.", answer="Good day."))])
    expect(answer.message.content == "Good day.", answer)
    expect(user.provider_got("You are a parrot."), user.sent())


@scenario
def system_prompt(user: User) -> None:
    messages = [says("You are a parrot.", MessageRole.SYSTEM), says(user.asks("Hello.", answer="Good day."))]
    answer = llm(user).chat(messages)
    expect(answer.message.content == "Good day.", answer)
    expect(user.provider_got("You are a parrot."), user.sent())


def _loop(user: User, made: OpenAIResponses, question: str, **options: Any) -> list[ChatMessage]:
    messages = [says(question)]
    for _ in range(3):
        response = made.chat_with_tools(list(TOOLS.values()), chat_history=messages, **options)
        messages.append(response.message)
        calls = made.get_tool_calls_from_response(response, error_on_no_tool_call=False)
        if not calls:
            return messages
        for call in calls:
            result = TOOLS[call.tool_name](**call.tool_kwargs).content
            given = {"tool_call_id": call.tool_id}
            messages.append(ChatMessage(role=MessageRole.TOOL, content=result, additional_kwargs=given))
    raise AssertionError(f"the tool is called for ever: {messages!r}")


@scenario
def tool_loop(user: User) -> None:
    question = user.asks_for_tool("The weather of Paris?", "get_weather", {"city": "Paris"})
    messages = _loop(user, llm(user), question)
    expect(messages[-1].content == "It is mild in Paris.", messages)
    expect(user.provider_got("22 degrees in Paris"), user.sent())


@scenario
def tool_loop_strict(user: User) -> None:
    question = user.asks_for_tool("The weather of Paris?", "get_weather", {"city": "Paris", "unit": "celsius"})
    messages = _loop(user, llm(user, strict=True), question)
    expect(messages[-1].content == "It is mild in Paris.", messages)


@scenario
def tool_call_streamed(user: User) -> None:
    question = user.asks_for_tool("The weather of Paris?", "get_weather", {"city": "Paris"})
    made = llm(user)
    *_, last = made.stream_chat_with_tools([TOOL], user_msg=question)
    calls = made.get_tool_calls_from_response(last)
    expect([call.tool_kwargs for call in calls] == [{"city": "Paris"}], calls)


@scenario
def parallel_tools(user: User) -> None:
    question = user.asks_for_tools("get_weather", "get_time")
    messages = _loop(user, llm(user), question, allow_parallel_tool_calls=True)
    expect(len([each for each in messages if each.role == MessageRole.TOOL]) == 2, messages)
    expect(user.provider_got("22 degrees in") and user.provider_got("noon in"), user.sent())


@scenario
def history(user: User) -> None:
    made, messages = llm(user), [says(user.asks("My name is Ada.", answer="Hello, Ada."))]
    messages += [made.chat(messages).message, says(user.asks("What is my name?", answer="Ada."))]
    answer = made.chat(messages)
    expect(answer.message.content == "Ada.", answer)
    expect(user.provider_got("Hello, Ada."), user.sent())


@scenario
def history_of_others(user: User) -> None:
    messages = [
        says(f"My name is Ada. {user.tag}"),
        says("Hello, Ada.", MessageRole.ASSISTANT),
        says(user.asks("What is my name?", answer="Ada.")),
    ]
    answer = llm(user).chat(messages)
    expect(answer.message.content == "Ada.", answer)
    expect(user.provider_got("Hello, Ada."), user.sent())


@scenario
def history_with_tools(user: User) -> None:
    made = llm(user)
    messages = _loop(user, made, user.asks_for_tool("The weather of Paris?", "get_weather", {"city": "Paris"}))
    expect(any(isinstance(block, ToolCallBlock) for block in messages[1].blocks), messages)
    answer = made.chat([*messages, says(user.asks("Thank you.", answer="Not at all."))])
    expect(answer.message.content == "Not at all.", answer)
    expect(user.provider_got("It is mild in Paris."), user.sent())


@scenario
@needs_state
def previous_response_id(user: User) -> None:
    made = llm(user, track_previous_responses=True)
    made.chat([says(user.asks("My name is Ada.", answer="Hello, Ada."))])
    answer = made.chat([says(user.asks("What is my name?", answer="Ada."))])
    expect(answer.message.content == "Ada.", answer)
    expect(user.provider_got("Hello, Ada."), user.sent())


@scenario
def structured(user: User) -> None:
    question = user.asks_for_json("The weather of Paris?", {"city": "Paris", "degrees": 22})
    weather = llm(user).structured_predict(Weather, PromptTemplate("{question}"), question=question)
    expect(weather == Weather(city="Paris", degrees=22), weather)


@scenario
def structured_streamed(user: User) -> None:
    question = user.asks_for_tool("The weather of Paris?", "Weather", {"city": "Paris", "degrees": 22})
    parts = list(llm(user).stream_structured_predict(Weather, PromptTemplate("{question}"), question=question))
    last = parts[-1]
    expect(last == Weather(city="Paris", degrees=22), parts)


@scenario
def image(user: User) -> None:
    question = user.asks("Of which colour is this?", answer="Red.")
    blocks = [TextBlock(text=question), ImageBlock(image=PNG_BYTES, image_mimetype="image/png")]
    answer = llm(user).chat([ChatMessage(role=MessageRole.USER, blocks=blocks)])
    expect(answer.message.content == "Red.", answer)
    expect(user.provider_got(PNG_URL), user.sent())


@scenario
def reasoning_given_back(user: User) -> None:
    made = llm(
        user,
        reasoning_options={"effort": "low", "summary": "auto"},
        include=["reasoning.encrypted_content"],
        store=False,
    )
    messages = _loop(user, made, user.asks_for_tool("The weather of Paris?", "get_weather", {"city": "Paris"}))
    answer = made.chat([*messages, says(user.asks("Thank you.", answer="Not at all."))])
    expect(answer.message.content == "Not at all.", answer)


@scenario
def agent(user: User) -> None:
    async def talk() -> tuple[str, str]:
        made = FunctionAgent(tools=[get_weather], llm=llm(user), system_prompt="You are a parrot.")
        handler = made.run(user.asks_for_tool("The weather of Paris?", "get_weather", {"city": "Paris"}))
        deltas = [event.delta async for event in handler.stream_events() if isinstance(event, AgentStream)]
        return "".join(deltas), str(await handler)

    seen = run_async(talk())
    expect(seen == ("It is mild in Paris.",) * 2, seen)


@scenario
def empty_held(user: User) -> None:
    llm(user).chat([says(user.asks_for_nothing())])


@scenario
def empty_streamed(user: User) -> None:
    list(llm(user).stream_chat([says(user.asks_for_nothing())]))
