"""Lists with rows that may be large: a page has a limit in bytes, and is never in memory as a whole.

Rows are read a few at a time, as the client takes the ones before. A page that reaches its limit, or fails midway, ends
with `has_more` set; the next page starts after its last row.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api.errors import TooManyReads
from jobs.encoding import to_json
from jobs.errors import KeyRefused
from jobs.store.database import DATABASE_ERRORS
from jobs.store.responses import ResponseDocument
from jobs.telemetry import get_logger

PAGE_BYTES: Final = 16 * 1024 * 1024
BATCH_BYTES: Final = 1024 * 1024
"""Most bytes read at once, as stored; a larger row is read alone."""
BLOCK_BYTES: Final = 64 * 1024
LISTED_BYTES: Final = 16 * 1024
"""Size above which a request's setting is left out of a list. Retrieving the response shows it."""
LISTS_PER_KEY: Final = 4
"""Most lists of one key at once, from the first row read to the last byte taken by the client."""
READS_AT_ONCE: Final = 4
"""Most reads at once over all keys of this process: each may hold a row of the largest size."""
MAX_WAIT_SECONDS: Final = 30.0
"""Seconds for which a list waits while its key reads `LISTS_PER_KEY`: a page of large rows may take some seconds."""

T = TypeVar("T")
Row = tuple[str, bytes]
"""A row's id, and the row as JSON."""

log = get_logger(__name__)


@dataclass
class _KeyLimit:
    free: asyncio.Semaphore
    users: int = 0


class Lists:
    """Limits the lists that are read at once. Belongs to one event loop."""

    def __init__(self) -> None:
        self._limits: dict[str, _KeyLimit] = {}
        self._pool = ThreadPoolExecutor(READS_AT_ONCE, "lists")

    def stop(self) -> None:
        """Cancel all reads that have not started."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def read(self, work: Callable[[], T]) -> T:
        """Run `work`, which may block, in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    @asynccontextmanager
    async def limited(self, api_key_id: str) -> AsyncIterator[None]:
        """Wait until the key reads fewer than `LISTS_PER_KEY` lists, and count one more.

        Raises:
            TooManyReads: none of its lists ended in time.
        """
        limit = self._limits.setdefault(api_key_id, _KeyLimit(asyncio.Semaphore(LISTS_PER_KEY)))
        limit.users += 1
        try:
            try:
                async with asyncio.timeout(MAX_WAIT_SECONDS):
                    await limit.free.acquire()
            except TimeoutError:
                raise TooManyReads(LISTS_PER_KEY) from None
            try:
                yield
            finally:
                limit.free.release()
        finally:
            limit.users -= 1
            if not limit.users:
                del self._limits[api_key_id]


class Source(Protocol):
    """The rows of a page in order. `has_more` is valid once the first row was read."""

    has_more: bool

    def rows(self) -> AsyncGenerator[Row, None]:
        """Yield the rows, each read when it is needed.

        Raises:
            CallerError: the query is invalid, or its API key was revoked.
        """


class ListedPage(Response):
    """A page of a list, sent row by row."""

    def __init__(self, lists: Lists, api_key_id: str, source: Source) -> None:
        super().__init__()
        self._lists = lists
        self._api_key_id = api_key_id
        self._source = source

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """Send the page. An error before the first block is raised; a later one ends the page early."""
        async with self._lists.limited(self._api_key_id), aclosing(self._source.rows()) as rows:
            await _Page(self._source, rows, send).run()


class _Page:
    def __init__(self, source: Source, rows: AsyncGenerator[Row, None], send: Send) -> None:
        self._source = source
        self._rows = rows
        self._send = send
        self._buffer = [b'{"object":"list","data":[']
        self._buffered = 0
        self._has_started = False
        self._first_id: str | None = None
        self._last_id: str | None = None
        self._bytes = 0

    async def run(self) -> None:
        is_cut = await self._send_rows()
        tail = {"first_id": self._first_id, "last_id": self._last_id, "has_more": is_cut or self._source.has_more}
        self._buffer.append(b"]," + to_json(tail)[1:])
        body = b"".join(self._buffer)
        await self._start({"content-length": str(len(body))})
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    async def _send_rows(self) -> bool:
        """Return whether the page ends before its rows do."""
        try:
            async for row_id, row in self._rows:
                if self._last_id is not None and self._bytes + len(row) > PAGE_BYTES:
                    return True
                await self._add(row_id, row)
        except (KeyRefused, *DATABASE_ERRORS) as error:
            if not self._has_started:
                raise
            log.warning("list ended early", error=type(error).__name__)
            return True
        return False

    async def _add(self, row_id: str, row: bytes) -> None:
        if self._last_id is not None:
            self._buffer.append(b",")
        self._buffer.append(row)
        self._first_id, self._last_id = self._first_id or row_id, row_id
        self._bytes += len(row)
        self._buffered += len(row)
        if self._buffered >= BLOCK_BYTES:
            block = memoryview(b"".join(self._buffer))
            self._buffer, self._buffered = [], 0
            await self._start({})
            for start in range(0, len(block), BLOCK_BYTES):
                piece = bytes(block[start : start + BLOCK_BYTES])
                await self._send({"type": "http.response.body", "body": piece, "more_body": True})

    async def _start(self, headers: Mapping[str, str]) -> None:
        if not self._has_started:
            self._has_started = True
            raw = [(name.encode(), value.encode()) for name, value in headers.items()]
            head = [*raw, (b"content-type", b"application/json")]
            await self._send({"type": "http.response.start", "status": 200, "headers": head})


def batches(sizes: Iterable[tuple[str, int]]) -> list[list[str]]:
    """Group ids so that each group's rows have at most `BATCH_BYTES`."""
    groups: list[list[str]] = []
    room = 0
    for row_id, size in sizes:
        if not groups or size > room:
            groups.append([])
            room = BATCH_BYTES
        groups[-1].append(row_id)
        room -= size
    return groups


def lean(document: ResponseDocument) -> tuple[ResponseDocument, list[str]]:
    """Return a response without its large settings, and the names of those."""
    left_out = [name for name, value in document.settings.items() if _is_large(value)]
    echoed = dict(document.answer or {})
    left_out += [name for name in echoed if name != "output" and name not in left_out and _is_large(echoed[name])]
    if not left_out:
        return document, []
    settings = {name: value for name, value in document.settings.items() if name not in left_out}
    answer = {name: value for name, value in echoed.items() if name not in left_out}
    return replace(document, settings=settings, answer=None if document.answer is None else answer), left_out


def _is_large(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) > LISTED_BYTES
    return isinstance(value, (list, dict)) and len(to_json(value)) > LISTED_BYTES
