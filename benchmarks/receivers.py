"""Webhook receivers in a process of their own, as cheap as Python can be.

`python -m benchmarks.receivers GOOD HANGING` lets each listen on a port of its own and prints their URLs, the good ones
first. A good one answers at once, a hanging one never. A GET to any of them tells when each event first came to a good
one: `{webhook-id: unix seconds}`.
"""

import asyncio
import json
import sys
import time
from functools import partial
from typing import Final, cast

import httptools
import uvloop

OK: Final = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
Arrivals = dict[str, float]


class Destination(asyncio.Protocol):
    """One connection."""

    def __init__(self, arrivals: Arrivals, *, hangs: bool) -> None:
        self._arrivals = arrivals
        self._hangs = hangs
        self._parser = httptools.HttpRequestParser(self)
        self._event = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"webhook-id":
            self._event = value.decode()

    def on_message_complete(self) -> None:
        if self._parser.get_method() == b"GET":
            told = json.dumps(self._arrivals).encode()
            self._transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(told) + told)
        elif not self._hangs:
            self._arrivals.setdefault(self._event, time.time())
            self._transport.write(OK)


async def serve(good: int, hanging: int) -> None:
    """Listen until the process is ended."""
    arrivals: Arrivals = {}
    loop = asyncio.get_running_loop()
    for hangs in (False,) * good + (True,) * hanging:
        accept = partial(Destination, arrivals, hangs=hangs)
        server = await loop.create_server(accept, "127.0.0.1", 0, backlog=1024)
        sys.stdout.write(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook\n")
    sys.stdout.write("listening\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1]), int(sys.argv[2])))
