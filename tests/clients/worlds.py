"""The worlds of the clients: a provider alone, and this server in front of each kind of provider."""

import json
import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.support.stack import API_KEY, Process, Stack
from tests.support.valkey import ValkeyServer

DIRECT = "direct"
THROUGH = tuple(f"{rules}-{transport}" for rules in ("lenient", "strict") for transport in ("plain", "stream"))
# a run makes some thousand calls, and each is looked at
KEPT = ("--bodies-limit", "100000")
_TAG = re.compile(r"<([a-z-]+)/(\w+)>")


@dataclass(frozen=True)
class World:
    """One server for the clients, and the provider whose call log counts the calls that they caused."""

    name: str
    base_url: str
    provider_url: str
    stateless: bool = False

    @property
    def settings(self) -> Mapping[str, Any]:
        """As the clients' programs read them."""
        return {
            "base_url": self.base_url,
            "api_key": API_KEY,
            "provider_url": self.provider_url,
            "stateless": self.stateless,
        }

    def call_log(self) -> "CallLog":
        """Everything that the provider saw until now."""
        answer = httpx.get(f"{self.provider_url}/_calls", params={"bodies": "true"}, timeout=60)
        return CallLog(answer.raise_for_status().json()["calls"])


class CallLog:
    """Return the provider's calls, each with the client and the scenario named in its body."""

    def __init__(self, calls: list[dict[str, Any]]) -> None:
        self.refused: list[tuple[str, str, dict[str, Any]]] = []
        self.billed_calls: Counter[tuple[str, str]] = Counter()
        for call in calls:
            found = _TAG.search(call["body"] or "")
            client, scenario = found.groups() if found else ("", "")
            if call["http_status"] == 400:
                self.refused.append((client, scenario, json.loads(call["body"])))
            self.billed_calls[client, scenario] += call["billed"]


@contextmanager
def provider_alone() -> Iterator[World]:
    """A lenient provider without this server: every scenario that passes here must pass through this server."""
    simulator = Process("simulator", [sys.executable, "-m", "simulator", "--port", "0", "--delay", "0.05", *KEPT], {})
    try:
        url = simulator.match(r"listening on (http://\S+)")[1]
        yield World(DIRECT, f"{url}/v1", url, stateless=True)
    finally:
        simulator.stop()


@contextmanager
def through_us(name: str, database: Path) -> Iterator[World]:
    """This server before a provider of `lenient`, `strict` or `openai` rules, over `plain` or `stream` transport."""
    rules, transport = name.split("-")
    environment = {"BACKBURNER_PROVIDER_TRANSPORT": transport}
    flags = ("--rules", rules, *KEPT)
    url = f"sqlite:///{database}"
    with ValkeyServer() as valkey, Stack(url, valkey.url, database.parent, environment, 1, flags) as stack:
        yield World(name, stack.base_url, stack.provider_url)


@contextmanager
def all_worlds(template: Path, directory: Path) -> Iterator[dict[str, World]]:
    """Start all worlds side by side, each with its own database and provider."""
    with ExitStack() as entered:
        worlds = [entered.enter_context(provider_alone())]
        for name in THROUGH:
            database = directory / name / "backburner.db"
            database.parent.mkdir()
            shutil.copyfile(template, database)
            worlds.append(entered.enter_context(through_us(name, database)))
        yield {world.name: world for world in worlds}
