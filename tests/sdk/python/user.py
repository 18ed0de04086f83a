"""A user of the SDK: where the server is, what he does, and what he sees.

This runs in an interpreter of its own that has one version of the `openai` package and what it needs, nothing else. A
scenario is a program as users write them; it returns the facts that `tests/sdk/test_sdks.py` expects of every SDK.
"""

import hashlib
import json
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self

from openai import AsyncOpenAI, OpenAI
from openai.types.responses import Response

MODEL = "openai/o3-pro"
PAUSE = 0.1

Facts = dict[str, Any]
Json = dict[str, Any]


@dataclass(frozen=True)
class User:
    """`name` makes the prompts of this run its own; `scenario` those of one scenario."""

    name: str
    base_url: str
    api_key: str
    reader_key: str
    lossy_url: str
    provider_url: str
    receiver_url: str
    webhook_secret: str
    strict: bool
    scenario: str = ""

    def client(self, **options: Any) -> OpenAI:
        """As the README has it: the address and the key. Strict runs refuse what does not fit the SDK's types."""
        return OpenAI(**self._options(options))

    def asynchronous(self, **options: Any) -> AsyncOpenAI:
        """The same, for asyncio."""
        return AsyncOpenAI(**self._options(options))

    def lenient(self) -> Self:
        """Himself, without strict validation: the SDK's types are closed, and lack codes and items of ours."""
        return replace(self, strict=False)

    def _options(self, options: Json) -> Json:
        return {
            "base_url": self.base_url,
            "api_key": self.api_key,
            "_strict_response_validation": self.strict,
            **options,
        }

    def prompt(self, directive: str = "full text=Done.", words: str = "Hello") -> str:
        """What the simulated provider shall do, in words that nobody else says."""
        return f"[[sim: {directive}]] {words} {self.scenario} {self.name}"

    def billed_calls(self, input_: str) -> int:
        """How often the provider was paid for this prompt."""
        sha256 = hashlib.sha256(input_.encode()).hexdigest()
        return len(self._ledger(prompt=sha256, billed="true"))

    def sent(self, response: Response) -> list[Json]:
        """The bodies that went to the provider for a response, one for each call."""
        calls = self._ledger(client_request_id_prefix=response.id, bodies="true")
        return [json.loads(call["body"]) for call in calls]

    @property
    def hook(self) -> str:
        """Where webhooks of this scenario are to go."""
        return f"{self.receiver_url}/{self.name}/{self.scenario}"

    def delivered(self, count: int) -> list[Json]:
        """The `headers` and `body` of each webhook that came, once so many have."""
        while len(came := _get(self.hook)) < count:
            time.sleep(PAUSE)
        found: list[Json] = came
        return found

    def _ledger(self, **query: str) -> list[Json]:
        calls: list[Json] = _get(f"{self.provider_url}/_calls?{urllib.parse.urlencode(query)}")["calls"]
        return calls


def _get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return json.load(answer)


Scenario = Callable[[User], Facts]
SCENARIOS: dict[str, Scenario] = {}


class Absent(Exception):
    """This version of the SDK has no such method yet."""


def scenario(act: Scenario) -> Scenario:
    """Put it on the list, under its own name."""
    SCENARIOS[act.__name__] = act
    return act
