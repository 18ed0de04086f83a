"""DSPy with `model_type="responses"`, by its own engine and by LiteLLM."""

from typing import Any, Literal

import dspy

from tests.clients.python.user import BARE_MODEL, MODEL, PNG_URL, User, expect, result_of_tool, run_async, scenario

PACKAGES = ("dspy", "litellm")


def get_weather(city: str) -> str:
    """Get the weather of a city."""
    return result_of_tool(f"22 degrees in {city}", answer=f"It is mild in {city}.")


def lm(user: User, **options: Any) -> dspy.LM:
    """Without DSPy's cache, which lies on disk and takes one server's answers for another's."""
    options = {"model": f"openai/{MODEL}", "cache": False, **options}
    return dspy.LM(model_type="responses", api_base=user.base_url, api_key=user.api_key, **options)


def fields(**values: str) -> str:
    """A completion as DSPy's ChatAdapter reads it."""
    parts = [f"[[ ## {name} ## ]]\n{value}" for name, value in (*values.items(), ("completed", ""))]
    return "\n\n".join(parts)


def text_of(completions: list[Any]) -> str:
    first = completions[0]
    return str(first["text"] if isinstance(first, dict) else first)


@scenario
def text(user: User) -> None:
    seen = lm(user)(user.asks("Hello.", answer="Good day."))
    expect(text_of(seen) == "Good day.", seen)


@scenario
def text_of_bare_model(user: User) -> None:
    seen = lm(user, model=f"openai/{BARE_MODEL}")(user.asks("Hello.", answer="Good day."))
    expect(text_of(seen) == "Good day.", seen)


@scenario
def text_by_litellm(user: User) -> None:
    seen = lm(user, engine="litellm")(user.asks("Hello.", answer="Good day."))
    expect(text_of(seen) == "Good day.", seen)


@scenario
def text_async(user: User) -> None:
    seen = run_async(lm(user).acall(user.asks("Hello.", answer="Good day.")))
    expect(text_of(seen) == "Good day.", seen)


@scenario
def predict(user: User) -> None:
    question = user.asks("Of France?", answer=fields(capital="Paris"))
    with dspy.context(lm=lm(user)):
        seen = dspy.Predict("question -> capital")(question=question)
    expect(seen.capital == "Paris", seen)


@scenario
def predict_by_litellm(user: User) -> None:
    question = user.asks("Of France?", answer=fields(capital="Paris"))
    with dspy.context(lm=lm(user, engine="litellm")):
        seen = dspy.Predict("question -> capital")(question=question)
    expect(seen.capital == "Paris", seen)


@scenario
def chain_of_thought(user: User) -> None:
    question = user.asks("Of France?", answer=fields(reasoning="Everybody knows.", capital="Paris"))
    with dspy.context(lm=lm(user)):
        seen = dspy.ChainOfThought("question -> capital")(question=question)
    expect((seen.reasoning, seen.capital) == ("Everybody knows.", "Paris"), seen)


@scenario
def instructions(user: User) -> None:
    question = user.asks("Of France?", answer=fields(capital="Paris"))
    with dspy.context(lm=lm(user)):
        seen = dspy.Predict(dspy.Signature("question -> capital", "You are a parrot."))(question=question)
    expect(seen.capital == "Paris", seen)
    expect(user.provider_got("You are a parrot."), user.sent())


@scenario
def stream(user: User) -> None:
    async def streamed() -> tuple[str, str]:
        program = dspy.streamify(
            dspy.Predict("question -> answer"),
            stream_listeners=[dspy.streaming.StreamListener(signature_field_name="answer")],
        )
        question = user.asks("Hello.", answer=fields(answer="Good day to all of you."))
        chunks, last = [], None
        with dspy.context(lm=lm(user)):
            async for part in program(question=question):
                if isinstance(part, dspy.streaming.StreamResponse):
                    chunks.append(part.chunk)
                elif isinstance(part, dspy.Prediction):
                    last = part
        return "".join(chunks).strip(), last.answer if last else ""

    seen = run_async(streamed())
    expect(seen == ("Good day to all of you.",) * 2, seen)


@scenario
def structured(user: User) -> None:
    question = user.asks_for_json("The weather of Paris?", {"city": "Paris", "degrees": 22})
    with dspy.context(lm=lm(user, model=f"openai/{BARE_MODEL}"), adapter=dspy.JSONAdapter()):
        seen = dspy.Predict("question -> city: str, degrees: int")(question=question)
    expect((seen.city, seen.degrees) == ("Paris", 22), seen)


@scenario
def structured_by_litellm(user: User) -> None:
    question = user.asks_for_json("The weather of Paris?", {"city": "Paris", "degrees": 22})
    with dspy.context(lm=lm(user, engine="litellm"), adapter=dspy.JSONAdapter()):
        seen = dspy.Predict("question -> city: str, degrees: int")(question=question)
    expect((seen.city, seen.degrees) == ("Paris", 22), seen)


@scenario
def history(user: User) -> None:
    class Talk(dspy.Signature):
        """Talk."""

        history: dspy.History = dspy.InputField()
        question: str = dspy.InputField()
        answer: str = dspy.OutputField()

    past = dspy.History(messages=[{"question": f"My name is Ada. {user.tag}", "answer": "Hello, Ada."}])
    question = user.asks("What is my name?", answer=fields(answer="Ada."))
    with dspy.context(lm=lm(user)):
        seen = dspy.Predict(Talk)(question=question, history=past)
    expect(seen.answer == "Ada.", seen)
    expect(user.provider_got("Hello, Ada."), user.sent())


@scenario
def few_shots(user: User) -> None:
    question = user.asks("Of France?", answer=fields(capital="Paris"))
    made = dspy.Predict("question -> capital")
    made.demos = [dspy.Example(question="Of Italy?", capital="Rome").with_inputs("question")]
    with dspy.context(lm=lm(user)):
        seen = made(question=question)
    expect(seen.capital == "Paris", seen)
    expect(user.provider_got("Rome"), user.sent())


@scenario
def few_shots_by_litellm(user: User) -> None:
    question = user.asks("Of France?", answer=fields(capital="Paris"))
    made = dspy.Predict("question -> capital")
    made.demos = [dspy.Example(question="Of Italy?", capital="Rome").with_inputs("question")]
    with dspy.context(lm=lm(user, engine="litellm")):
        seen = made(question=question)
    expect(seen.capital == "Paris", seen)
    expect(user.provider_got("Rome"), user.sent())


@scenario
def native_tool_call(user: User) -> None:
    class Ask(dspy.Signature):
        """Answer with tools."""

        question: str = dspy.InputField()
        tools: list[dspy.Tool] = dspy.InputField()
        outputs: dspy.ToolCalls = dspy.OutputField()

    question = user.asks_for_tool("The weather of Paris?", "get_weather", {"city": "Paris"})
    made = lm(user, model=f"openai/{BARE_MODEL}")
    with dspy.context(lm=made, adapter=dspy.ChatAdapter(use_native_function_calling=True)):
        seen = dspy.Predict(Ask)(question=question, tools=[dspy.Tool(get_weather)])
    expect([(each.name, each.args) for each in seen.outputs.tool_calls] == [("get_weather", {"city": "Paris"})], seen)


@scenario
def image(user: User) -> None:
    class Look(dspy.Signature):
        """Look."""

        picture: dspy.Image = dspy.InputField()
        question: str = dspy.InputField()
        colour: Literal["red", "blue"] = dspy.OutputField()

    question = user.asks("Of which colour is this?", answer=fields(colour="red"))
    with dspy.context(lm=lm(user)):
        seen = dspy.Predict(Look)(picture=dspy.Image(PNG_URL), question=question)
    expect(seen.colour == "red", seen)
    expect(user.provider_got(PNG_URL), user.sent())


@scenario
def reasoning_effort(user: User) -> None:
    made = lm(user, model=f"openai/{BARE_MODEL}", reasoning_effort="low")
    seen = made(user.asks("Hello.", answer="Good day."))
    expect(text_of(seen) == "Good day.", seen)


@scenario
def empty_held(user: User) -> None:
    lm(user)(user.asks_for_nothing())


@scenario
def empty_held_by_litellm(user: User) -> None:
    lm(user, engine="litellm")(user.asks_for_nothing())


@scenario
def empty_streamed(user: User) -> None:
    async def streamed() -> None:
        with dspy.context(lm=lm(user)):
            async for _ in dspy.streamify(dspy.Predict("question -> answer"))(question=user.asks_for_nothing()):
                pass

    run_async(streamed())
