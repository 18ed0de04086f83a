"""A TCP proxy whose connections can be cut, held still, or refused while somebody talks through them."""

import asyncio
import random
import threading
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

from tests.support.server import HOST, free_port

T = TypeVar("T")

CHUNK = 65_536


class Proxy:
    """One link: everything that connects to `port` is passed to `target_port`. Runs on a thread of its own."""

    def __init__(self, name: str, target_port: int) -> None:
        self.name = name
        self.port = free_port()
        self._target_port = target_port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._links: dict[asyncio.Task[Any], tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = {}
        self._flowing = asyncio.Event()
        self._refusing = False

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = self._on_loop(self._listen())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._on_loop(self._shut())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def cut(self, share: float, rng: random.Random) -> int:
        """Reset this share of the connections; returns how many."""
        return self._on_loop(self._now(lambda: self._cut(share, rng)))

    def stall(self) -> None:
        """Pass nothing on, in either direction, without closing anything; `flow` ends that."""
        self._on_loop(self._now(self._flowing.clear))

    def refuse(self) -> None:
        """Reset every connection, old and new; `flow` ends that."""
        self._refusing = True
        self.cut(1, random.Random(0))

    def flow(self) -> None:
        """Be an honest proxy again."""
        self._refusing = False
        self._on_loop(self._now(self._flowing.set))

    def _on_loop(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _now(self, act: Callable[[], T]) -> T:
        return act()

    async def _listen(self) -> asyncio.Server:
        self._flowing.set()
        return await asyncio.start_server(self._serve, HOST, self.port, backlog=512)

    async def _shut(self) -> None:
        self._server.close()
        tasks = list(self._links)
        self._cut(1, random.Random(0))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _cut(self, share: float, rng: random.Random) -> int:
        chosen = [pair for pair in self._links.values() if rng.random() < share]
        for pair in chosen:
            for writer in pair:
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
        self._links[task] = (near, far)
        try:
            await asyncio.gather(self._pump(near_reader, far), self._pump(far_reader, near))
        except (OSError, asyncio.CancelledError):  # a side that breaks breaks the other as well
            pass
        finally:
            del self._links[task]
            near.transport.abort()
            far.transport.abort()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while chunk := await source.read(CHUNK):
            await self._flowing.wait()
            sink.write(chunk)
            await sink.drain()
        await self._flowing.wait()
        if sink.can_write_eof() and not sink.transport.is_closing():
            sink.write_eof()
