"""Many HTTP/1.1 clients with one connection each, as cheap as Python can be, so that only the server is measured.

Each client sends its next request as soon as it has the last answer (a closed loop).
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, cast
from urllib.parse import urlsplit

import httptools
import uvloop

from benchmarks.report import percentile
from tests.support.stack import API_KEY

AUTHORIZED: Final = {"authorization": f"Bearer {API_KEY}"}


@dataclass
class Load:
    """The answers received. Latencies are in milliseconds, in the order of the answers."""

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    statuses: dict[int, int] = field(default_factory=dict)
    bodies: list[bytes] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Answers per second."""
        return len(self.latencies) / self.seconds

    def figures(self, rate: str) -> dict[str, float]:
        """Return the rate under the name `rate`, and the p50 and p99 latencies."""
        shares = {f"p{share} ms": percentile(self.latencies, share) for share in (50, 99)}
        return {rate: self.rate, **shares}

    @property
    def refused(self) -> int:
        """Number of answers other than 2xx and 304."""
        return sum(count for status, count in self.statuses.items() if not (200 <= status < 300 or status == 304))


def request(method: str, url: str, headers: Mapping[str, str], body: bytes = b"") -> bytes:
    """Return the bytes of a request."""
    parts = urlsplit(url)
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    lines = [f"{method} {target} HTTP/1.1", f"host: {parts.netloc}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if body or method == "POST":
        lines += ["content-type: application/json", f"content-length: {len(body)}"]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def drive(
    url: str, next_request: Callable[[], bytes | None], *, clients: int, seconds: float = 0.0, keep: bool = False
) -> Load:
    """Send the requests of `next_request` until it returns None or `seconds` have passed. `keep` keeps the bodies."""
    return uvloop.run(_drive(url, next_request, clients, seconds, keep=keep))


def send_all(url: str, requests: Iterable[bytes], *, clients: int) -> Load:
    """Send every request once and keep the bodies of the answers; none may be refused."""
    remaining = iter(requests)
    load = drive(url, lambda: next(remaining, None), clients=clients, keep=True)
    assert not load.refused, load.statuses
    return load


def saturate(url: str, data: bytes, *, clients: int, seconds: float) -> Load:
    """Repeat one request for `seconds`, after a second of warm-up; no answer may be refused."""
    drive(url, lambda: data, clients=clients, seconds=1)
    load = drive(url, lambda: data, clients=clients, seconds=seconds)
    assert not load.refused, load.statuses
    return load


async def _drive(
    url: str, next_request: Callable[[], bytes | None], clients: int, seconds: float, *, keep: bool
) -> Load:
    load = Load()
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    loop = asyncio.get_running_loop()
    deadline = time.perf_counter() + seconds if seconds else float("inf")

    def new_client() -> _Client:
        return _Client(load, next_request, deadline, keep=keep)

    connected = [(await loop.create_connection(new_client, parts.hostname, parts.port))[1] for _ in range(clients)]
    started_at = time.perf_counter()
    for client in connected:
        client.send()
    await asyncio.gather(*(client.done for client in connected))
    load.seconds = time.perf_counter() - started_at
    return load


class _Client(asyncio.Protocol):
    def __init__(self, load: Load, next_request: Callable[[], bytes | None], deadline: float, *, keep: bool) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._load = load
        self._next = next_request
        self._deadline = deadline
        self._keep = keep
        self._sent_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's does not inherit from it

    def send(self) -> None:
        """Send the next request, if there is one."""
        data = self._next() if time.perf_counter() < self._deadline else None
        if data is None:
            self.done.set_result(None)
            self._transport.close()
            return
        self._body = b""
        self._parser = httptools.HttpResponseParser(self)
        self._sent_at = time.perf_counter()
        self._transport.write(data)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        if self._keep:
            self._body += body

    def on_message_complete(self) -> None:
        load = self._load
        load.latencies.append((time.perf_counter() - self._sent_at) * 1000)
        status = self._parser.get_status_code()
        load.statuses[status] = load.statuses.get(status, 0) + 1
        if self._keep:
            load.bodies.append(self._body)
        asyncio.get_running_loop().call_soon(self.send)  # not from within the parser

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(error or ConnectionError("the server closed the connection"))
