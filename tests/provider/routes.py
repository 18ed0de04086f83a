"""The provider's other routes, over real HTTP in this process. A test sets their answers."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

Answer = tuple[int, Any]


class Routes:
    """The served routes. `answer` gets method, path and query, and returns a status and a body: JSON, or bytes
    unchanged.
    """

    def __init__(self) -> None:
        self.answer: Callable[[str, str, dict[str, str]], Answer] = lambda *_: (404, {})
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        self.keys: set[str | None] = set()
        self.url = ""


@contextmanager
def routes() -> Iterator[Routes]:
    served = Routes()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(parts.query).items()}
            asked = (self.command, parts.path, query)
            served.asked.append(asked)
            served.keys.add(self.headers["authorization"])
            status, body = served.answer(*asked)
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_POST(self) -> None:
            self.do_GET()

        def do_DELETE(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        served.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield served
        finally:
            server.shutdown()
            thread.join()
