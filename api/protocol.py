"""How an answer leaves: its head and the first piece of its body at once.

uvicorn hands the two over apart. Each is then a system call and a segment of its own, and wakes the client: 0079.
"""

import asyncio
from typing import Any, Final, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD: Final = b"HTTP/1.1 "


class Protocol(HttpToolsProtocol):
    """uvicorn's, on a `_Transport`: `uvicorn --http api.protocol:Protocol`."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client is there."""
        whole = _Transport(cast("asyncio.Transport", transport), self.loop)
        super().connection_made(cast("asyncio.Transport", whole))


class _Transport:
    """Keeps a head until what follows it is written, but never beyond this turn of the loop."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._head: bytes | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if self._head is not None:
            head, self._head = self._head, None
            self._transport.writelines((head, data) if data else (head,))  # asyncio's never gets rid of an empty piece
        elif data.startswith(HEAD):
            self._head = data
            self._loop.call_soon(self._send_head)
        else:
            self._transport.write(data)

    def close(self) -> None:
        self._send_head()
        self._transport.close()

    def _send_head(self) -> None:
        head, self._head = self._head, None
        if head is not None and not self._transport.is_closing():
            self._transport.write(head)
