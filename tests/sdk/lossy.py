"""A proxy before the API that loses requests or answers, so that an SDK retries.

The client's base URL is `{url}/{mischief}/v1`. The mischief is done to the first try of a POST:

- `hang-up`: the request goes through, and at once both connections break.
- `cut`: the same a little later, when the API has taken the request in.
- `502`: the same, but a gateway's error page comes in place of the answer.
- `cut-late`: the headers of the answer come back and something of its body, then both connections break.
- `mute`: nothing comes back until the answer is complete: no heartbeat reaches a client with a short timeout.
"""

import asyncio
import socket
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from tests.support.looping import LoopThread
from tests.support.server import HOST

CHUNK = 65_536
# Long enough for the API to take the request in, shorter than any answer that a scenario asks for.
LOSS_SECONDS = 0.4
BAD_GATEWAY = (
    b"HTTP/1.1 502 Bad Gateway\r\ncontent-type: text/html\r\nconnection: close\r\n\r\n<h1>502 Bad Gateway</h1>"
)


@dataclass(frozen=True)
class ReceivedRequest:
    """One request as it came."""

    mischief: str
    is_first_try: bool
    forwarded: bytes


async def receive(reader: asyncio.StreamReader) -> ReceivedRequest:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    request_line, *lines = head.rstrip("\r\n").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    method, target, version = request_line.split(" ")
    mischief, _, path = target.removeprefix("/").partition("/")
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    kept = [f"{name}: {value}" for name, value in headers.items() if name != "connection"]
    forwarded = "\r\n".join([f"{method} /{path} {version}", *kept, "connection: close", "", ""])
    is_first_try = method == "POST" and headers.get("x-stainless-retry-count") == "0"
    return ReceivedRequest(mischief, is_first_try, forwarded.encode("latin-1") + body)


class LossyProxy(LoopThread):
    """Understands enough HTTP to know a first try; one request for each connection."""

    def __init__(self, target_port: int) -> None:
        super().__init__()
        self._target_port = target_port
        self._serving: set[asyncio.Task[Any]] = set()

    async def _open(self) -> None:
        self._server = await asyncio.start_server(self._serve, HOST, 0, backlog=512)
        self.url = f"http://{HOST}:{self._server.sockets[0].getsockname()[1]}"

    async def _shut(self) -> None:
        self._server.close()
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    async def _serve(self, near_reader: asyncio.StreamReader, near: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        far_reader, far = await asyncio.open_connection(HOST, self._target_port)
        try:
            with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                received = await receive(near_reader)
                if received.is_first_try and received.mischief == "hang-up":
                    await asyncio.to_thread(self._hang_up, received.forwarded)
                    near.transport.abort()
                    return
                far.write(received.forwarded)
                if received.mischief == "mute":
                    await self._mute(near_reader, near, far_reader)
                elif received.is_first_try:
                    await self._lose(received.mischief, near, far_reader, far)
                else:
                    await self._pass_on(far_reader, near)
        finally:
            self._serving.discard(task)
            far.transport.abort()
            near.close()

    def _hang_up(self, request: bytes) -> None:
        """Send the request together with the end of its connection, so that no answer is quicker than the loss."""
        with socket.create_connection((HOST, self._target_port)) as far:
            far.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)  # until it is closed
            far.sendall(request)

    async def _pass_on(self, far_reader: asyncio.StreamReader, near: asyncio.StreamWriter) -> None:
        while chunk := await far_reader.read(CHUNK):
            near.write(chunk)
            await near.drain()

    async def _mute(
        self, near_reader: asyncio.StreamReader, near: asyncio.StreamWriter, far_reader: asyncio.StreamReader
    ) -> None:
        answer = asyncio.ensure_future(far_reader.read(-1))
        gone = asyncio.ensure_future(near_reader.read(CHUNK))
        await asyncio.wait({answer, gone}, return_when=asyncio.FIRST_COMPLETED)
        gone.cancel()
        if answer.done():
            near.write(answer.result())
            await near.drain()
        answer.cancel()

    async def _lose(
        self, mischief: str, near: asyncio.StreamWriter, far_reader: asyncio.StreamReader, far: asyncio.StreamWriter
    ) -> None:
        if mischief == "cut-late":
            near.write(await far_reader.readuntil(b"\r\n\r\n"))
            near.write(await far_reader.read(CHUNK))
            await near.drain()
        else:
            with suppress(TimeoutError):
                await asyncio.wait_for(far_reader.read(1), LOSS_SECONDS)
        far.transport.abort()
        if mischief == "502":
            near.write(BAD_GATEWAY)
            await near.drain()
        else:
            near.transport.abort()
