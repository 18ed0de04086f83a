"""Webhook receivers (`receivers.py`) started for one benchmark, and the settings with which ours deliver to them."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx

from tests.support.stack import ROOT, Process
from tests.support.waiting import await_until

MAX_WAIT_SECONDS = 90
ENVIRONMENT = {"BACKBURNER_WEBHOOK_ALLOW_HTTP": "true", "BACKBURNER_WEBHOOK_ALLOW_NETWORKS": "127.0.0.0/8"}


@dataclass(frozen=True)
class Receivers:
    """Where they listen, the good ones first."""

    urls: list[str]

    def arrivals(self) -> dict[str, float]:
        """When each event first came to a good one: event id to unix seconds."""
        found: dict[str, float] = httpx.get(self.urls[0]).json()
        return found

    def await_count(self, count: int) -> dict[str, float]:
        """The same, as soon as there are so many."""
        await_until(lambda: len(self.arrivals()) >= count, MAX_WAIT_SECONDS, "not all deliveries came")
        return self.arrivals()


@contextmanager
def receivers(good: int, hanging: int = 0) -> Iterator[Receivers]:
    """So many of both kinds, in one process."""
    command = [sys.executable, "-m", "benchmarks.receivers", str(good), str(hanging)]
    process = Process("receivers", command, {"PYTHONPATH": str(ROOT)})
    try:
        process.match("listening")
        yield Receivers(process.lines[: good + hanging])
    finally:
        process.stop()
