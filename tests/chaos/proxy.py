"""A TCP proxy whose connections can be cut, frozen or refused while they are in use."""

import asyncio
import random
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Self, TypeVar

from sqlalchemy import make_url

from tests.support.looping import LoopThread
from tests.support.server import HOST, free_port

T = TypeVar("T")

CHUNK = 65_536
NOTICED_AFTER_SECONDS = 10.0
"""Seconds until the far side of a silent connection learns that its peer has left, as by TCP keepalive."""
HEAD_BYTES = 8_192


@dataclass
class Passage:
    """One connection: its start and end as the proxy saw them. Moments are unix time.

    Bytes passed on before the near side left have reached it, unless the proxy cut the connection.
    """

    head: bytes = b""
    passed_at: float | None = None  # the last bytes for the near side
    left_at: float | None = None  # the near side closed
    cut_at: float | None = None
    silent_at: float | None = None
    lost_at: float | None = None  # the last bytes for the near side that its silence swallowed

    @property
    def was_broken(self) -> bool:
        """True if the proxy cut the connection, or kept back bytes of the far side."""
        return self.cut_at is not None or self.lost_at is not None

    @property
    def is_left(self) -> bool:
        """True if the near side has left and the far side does not know yet."""
        return self.silent_at is not None and self.left_at is not None

    @property
    def was_delivered(self) -> bool:
        """True if everything sent by the far side reached a near side that still read."""
        if self.passed_at is None or self.was_broken:
            return False
        return self.left_at is None or self.passed_at <= self.left_at


class Proxy(LoopThread):
    """One link: connections to `port` are passed on to `target_port`."""

    def __init__(self, name: str, target_port: int) -> None:
        super().__init__()
        self.name = name
        self.port = free_port()
        self._target_port = target_port
        self.passages: list[Passage] = []
        self._links: dict[asyncio.Task[Any], tuple[Passage, asyncio.StreamWriter, asyncio.StreamWriter]] = {}
        self._flowing = asyncio.Event()
        self._refusing = False

    @classmethod
    def before(cls, database_url: str) -> tuple[Self, str]:
        """Return a link to this database, still to be opened, and the URL that leads through it."""
        url = make_url(database_url)
        assert url.port
        way = cls("database", url.port)
        return way, url.set(port=way.port).render_as_string(hide_password=False)

    def cut(self, share: float, rng: random.Random) -> int:
        """Reset this share of the connections; returns how many."""
        return self.on_loop(self._now(lambda: self._cut(share, rng)))

    def stall(self) -> None:
        """Pass nothing on, in either direction, and close nothing, until `flow` is called."""
        self.on_loop(self._now(self._flowing.clear))

    def silence(self) -> int:
        """Silence the present connections for good, as a NAT's flush does; return how many.

        They stay open, and the kernel still acknowledges what is sent. If one side gives up, the
        other learns of it late. New connections are passed on.
        """
        return self.on_loop(self._now(self._silence))

    def _silence(self) -> int:
        flowing = [passage for passage, *_ in self._links.values() if passage.silent_at is None]
        for passage in flowing:
            passage.silent_at = time.time()
        return len(flowing)

    def refuse(self) -> None:
        """Reset every connection, old and new, until `flow` is called."""
        self._refusing = True
        self.cut(1, random.Random(0))

    def flow(self) -> None:
        """Pass everything on again."""
        self._refusing = False
        self.on_loop(self._now(self._flowing.set))

    def near_ports(self, far_ports: Collection[int]) -> set[int]:
        """Return the near side's port of each connection that reaches the far side from one of `ports`."""
        return self.on_loop(self._now(lambda: self._near_ports(far_ports)))

    def _near_ports(self, far_ports: Collection[int]) -> set[int]:
        links = ((near, far) for _, near, far in self._links.values())
        return {_port(near, "peername") for near, far in links if _port(far, "sockname") in far_ports}

    async def _now(self, act: Callable[[], T]) -> T:
        return act()

    async def _open(self) -> None:
        self._flowing.set()
        self._server = await asyncio.start_server(self._serve, HOST, self.port, backlog=512)

    async def _shut(self) -> None:
        self._server.close()
        tasks = list(self._links)
        self._cut(1, random.Random(0))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _cut(self, share: float, rng: random.Random) -> int:
        chosen = [link for link in self._links.values() if rng.random() < share and not link[0].is_left]
        for passage, *writers in chosen:
            passage.cut_at = time.time()
            for writer in writers:
                writer.transport.abort()
        return len(chosen)

    async def _serve(self, near_reader: asyncio.StreamReader, near: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            if self._refusing:
                raise ConnectionRefusedError
            far_reader, far = await asyncio.open_connection(HOST, self._target_port)
        except OSError:
            near.transport.abort()
            return
        passage = Passage()
        self.passages.append(passage)
        self._links[task] = (passage, near, far)
        try:
            await asyncio.gather(self._send(near_reader, far, passage), self._bring(far_reader, near, passage))
        except (OSError, asyncio.CancelledError):  # a side that breaks breaks the other as well
            pass
        finally:
            del self._links[task]
            near.transport.abort()
            far.transport.abort()

    async def _send(self, near: asyncio.StreamReader, far: asyncio.StreamWriter, passage: Passage) -> None:
        try:
            while chunk := await near.read(CHUNK):
                if len(passage.head) < HEAD_BYTES:
                    passage.head += chunk[:HEAD_BYTES]
                await self._flowing.wait()
                if passage.silent_at is None:
                    far.write(chunk)
                    await far.drain()
        finally:
            passage.left_at = time.time()
        await self._finish(far, passage)

    async def _bring(self, far: asyncio.StreamReader, near: asyncio.StreamWriter, passage: Passage) -> None:
        while chunk := await far.read(CHUNK):
            await self._flowing.wait()
            if passage.silent_at is not None:
                passage.lost_at = time.time()
                continue
            near.write(chunk)
            passage.passed_at = time.time()
            await near.drain()
        await self._finish(near, passage)

    async def _finish(self, sink: asyncio.StreamWriter, passage: Passage) -> None:
        await self._flowing.wait()
        if passage.silent_at is not None:
            asyncio.get_running_loop().call_later(NOTICED_AFTER_SECONDS, sink.transport.abort)
        elif sink.can_write_eof() and not sink.transport.is_closing():
            sink.write_eof()


def _port(writer: asyncio.StreamWriter, end: str) -> int:
    address = writer.get_extra_info(end)
    return int(address[1]) if address else 0
