"""A user of one client: where the server is, what he asks for, and what he finds wrong.

This runs in an interpreter that has one client and what it needs, nothing else. A scenario is a program as the client's
documentation shows it, with `base_url` and `api_key` set; it asserts what the user sees.
"""

import asyncio
import base64
import json
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeVar

MODEL = "openai/o3-pro"
# for clients that accept no names but OpenAI's own; the server and the provider know it as an alias
BARE_MODEL = "o3-pro"
# one red pixel
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
PNG_BYTES = base64.b64decode(PNG)
PNG_URL = f"data:image/png;base64,{PNG}"

Json = dict[str, Any]
T = TypeVar("T")


@dataclass(frozen=True)
class User:
    """`client` and `scenario` mark the prompts, so that the provider's call log tells whose a call was."""

    client: str
    base_url: str
    api_key: str
    provider_url: str
    scenario: str = ""

    @property
    def tag(self) -> str:
        return f"<{self.client}/{self.scenario}>"

    def asks(self, words: str, *, answer: str) -> str:
        """A prompt that is answered with a text."""
        return f"[[sim: full text={json.dumps(answer)}]] {words} {self.tag}"

    def asks_for_json(self, words: str, answer: Json) -> str:
        """A prompt that is answered with an object, as the schema of the request has it."""
        return f"[[sim: json text={json.dumps(json.dumps(answer))}]] {words} {self.tag}"

    def asks_for_tool(self, words: str, name: str, arguments: Json) -> str:
        """A prompt that is answered with a function call."""
        return f"[[sim: tool-call name={name} arguments={json.dumps(json.dumps(arguments))}]] {words} {self.tag}"

    def asks_for_tools(self, *names: str) -> str:
        """A prompt that is answered with a call of each of these functions, all in one answer."""
        return f"Call {' and '.join(names)}. {self.tag}"

    def asks_for_nothing(self) -> str:
        """A prompt whose answer is paid for and has no text."""
        return f"[[sim: empty]] Say nothing. {self.tag}"

    def sent(self) -> list[Json]:
        """The bodies that the provider got in this scenario, in order."""
        query = urllib.parse.urlencode({"bodies": "true", "limit": "200"})
        with urllib.request.urlopen(f"{self.provider_url}/_calls?{query}", timeout=30) as answer:
            calls = json.load(answer)["calls"]
        return [json.loads(call["body"]) for call in calls if call["body"] and self.tag in call["body"]]

    def until_done(self) -> Iterator[None]:
        """Turns of a polling loop, a pause between them, and not for ever."""
        for _ in range(600):
            yield
            time.sleep(0.1)
        raise AssertionError("it never ended")

    def provider_got(self, words: str) -> bool:
        """Whether the last call of this scenario carried these words."""
        return words in json.dumps(self.sent()[-1], ensure_ascii=False)


def result_of_tool(result: str, *, answer: str) -> str:
    """A tool's result, after which the provider answers with a text."""
    return f"{result} [[sim: full text={json.dumps(answer)}]]"


def result_that_calls(result: str, name: str, arguments: Json) -> str:
    """A tool's result, after which the provider calls another function."""
    return f"{result} [[sim: tool-call name={name} arguments={json.dumps(json.dumps(arguments))}]]"


Scenario = Callable[[User], None]
SCENARIOS: dict[str, Scenario] = {}
STATEFUL: set[str] = set()


def scenario(act: Scenario) -> Scenario:
    """Put it on the list, under its own name."""
    SCENARIOS[act.__name__] = act
    return act


def needs_state(act: Scenario) -> Scenario:
    """Mark what a provider without memory cannot do, so that there is no run without this server to compare with."""
    STATEFUL.add(act.__name__)
    return act


_LOOP: Final = asyncio.new_event_loop()
threading.Thread(target=_LOOP.run_forever, daemon=True).start()


def run_async(act: Coroutine[Any, Any, T]) -> T:
    """Await it on the one event loop of the program; clients share connections, and those belong to a loop."""
    return asyncio.run_coroutine_threadsafe(act, _LOOP).result()


def expect(condition: object, seen: object) -> None:
    """Fail with what was seen."""
    if not condition:
        raise AssertionError(f"saw {seen!r}")
