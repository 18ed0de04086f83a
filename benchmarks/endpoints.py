"""Webhook endpoints in a process of their own, as cheap as Python can be.

`python -m benchmarks.endpoints GOOD HANGING` lets each listen on a port of its own and prints their URLs, the good ones
first. A good endpoint answers at once, a hanging one never. A GET to any of them returns when each event first arrived
at a good one: `{webhook-id: unix seconds}`.
"""

import asyncio
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final, cast

import httptools
import httpx
import uvloop

from tests.support.stack import ROOT, Process
from tests.support.waiting import await_until

MAX_WAIT_SECONDS: Final = 90
ENVIRONMENT: Final = {"BACKBURNER_WEBHOOK_ALLOW_HTTP": "true", "BACKBURNER_WEBHOOK_ALLOW_NETWORKS": "127.0.0.0/8"}
"""Settings with which Backburner delivers to these endpoints."""
OK: Final = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
Arrivals = dict[str, float]
"""Event ids, to unix seconds."""


@dataclass(frozen=True)
class Endpoints:
    """Running endpoints, by their URLs, the good ones first."""

    urls: list[str]

    def arrivals(self) -> Arrivals:
        """Return when each event first arrived at a good endpoint."""
        found: Arrivals = httpx.get(self.urls[0]).json()
        return found

    def await_count(self, count: int) -> Arrivals:
        """Wait for `count` events; return their arrivals."""
        await_until(lambda: len(self.arrivals()) >= count, MAX_WAIT_SECONDS, "not all deliveries arrived")
        return self.arrivals()


@contextmanager
def endpoints(good: int, hanging: int = 0) -> Iterator[Endpoints]:
    """Run `good` and `hanging` endpoints in one process during the block."""
    command = [sys.executable, "-m", "benchmarks.endpoints", str(good), str(hanging)]
    process = Process("endpoints", command, {"PYTHONPATH": str(ROOT)})
    try:
        process.match("listening")
        yield Endpoints(process.lines[: good + hanging])
    finally:
        process.stop()


class _Connection(asyncio.Protocol):
    def __init__(self, arrivals: Arrivals, *, hangs: bool) -> None:
        self._arrivals = arrivals
        self._hangs = hangs
        self._parser = httptools.HttpRequestParser(self)
        self._event = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's does not inherit from it

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"webhook-id":
            self._event = value.decode()

    def on_message_complete(self) -> None:
        if self._parser.get_method() == b"GET":
            body = json.dumps(self._arrivals).encode()
            self._transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        elif not self._hangs:
            self._arrivals.setdefault(self._event, time.time())
            self._transport.write(OK)


async def serve(good: int, hanging: int) -> None:
    """Listen until the process is ended."""
    arrivals: Arrivals = {}
    loop = asyncio.get_running_loop()
    for hangs in (False,) * good + (True,) * hanging:
        server = await loop.create_server(partial(_Connection, arrivals, hangs=hangs), "127.0.0.1", 0, backlog=1024)
        sys.stdout.write(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook\n")
    sys.stdout.write("listening\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), int(sys.argv[2])))
