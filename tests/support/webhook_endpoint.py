"""A webhook endpoint on loopback: a real HTTP server that records requests and gives the answers that a test sets.

With a GET, a program in another process reads the requests to the same path so far.
"""

import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from tests.support.waiting import await_until


@dataclass(frozen=True)
class Delivered:
    """One received request."""

    path: str
    headers: Mapping[str, str]
    body: bytes
    at: float

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]


@dataclass(frozen=True)
class Answer:
    """An answer, sent after `hang` seconds or when the endpoint is closed."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b"thanks"
    hang: float = 0


OK = Answer()
Answering = Callable[[Delivered], Answer]


class Destination:
    """An endpoint that answers with `answer`, which a test may change at any time."""

    def __init__(self, answer: Answering = lambda _delivered: OK) -> None:
        self.answer = answer
        self.delivered: list[Delivered] = []
        self.connections = 0
        self._closing = threading.Event()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", "0")))
                headers = {name.lower(): value for name, value in self.headers.items()}
                delivered = Delivered(self.path, headers, body, time.time())
                receiver.delivered.append(delivered)
                answer = receiver.answer(delivered)
                if answer.hang and receiver._closing.wait(answer.hang):
                    return
                self._send(answer)

            def do_GET(self) -> None:
                came = [each for each in list(receiver.delivered) if each.path == self.path]
                reported = [{"headers": each.headers, "body": each.body.decode()} for each in came]
                self._send(Answer(body=json.dumps(reported).encode()))

            def _send(self, answer: Answer) -> None:
                self.send_response(answer.status)
                for name, value in {"content-length": str(len(answer.body)), **answer.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(answer.body)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 512

            def process_request(self, request: Any, client_address: Any) -> None:
                receiver.connections += 1
                super().process_request(request, client_address)

            def handle_error(self, request: Any, client_address: Any) -> None:
                """Ignore senders that disconnect."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=lambda: self._server.serve_forever(0.02), daemon=True)

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    def ids(self) -> list[str]:
        return [each.id for each in list(self.delivered)]

    def await_count(self, count: int, seconds: float = 20) -> list[Delivered]:
        await_until(
            lambda: len(self.delivered) >= count, seconds, lambda: f"{len(self.delivered)} of {count} deliveries came"
        )
        return list(self.delivered)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
