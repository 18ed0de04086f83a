"""A provider that repeats each request in its answer, its events and its errors."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class LeakyProvider:
    """The provider and the requests that it received. If `refuses`, it answers 400 with the request's tools."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.refuses = False
        self.url = ""

    def answer(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Return status and body for one request."""
        self.bodies.append(body)
        tools = json.dumps(body.get("tools"))
        if self.refuses:
            return 400, {"error": {"message": f"Cannot connect: {tools}", "type": "invalid_request_error"}}
        part = {"type": "output_text", "text": f"Seen: {tools}", "annotations": []}
        message = {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [part],
        }
        return 200, {
            "id": "resp_1",
            "object": "response",
            "status": "completed",
            "tools": body.get("tools"),
            "output": [message],
            "usage": {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2},
        }


@contextmanager
def leaky_provider() -> Iterator[LeakyProvider]:
    """Yield a leaky provider on loopback."""
    provider = LeakyProvider()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            status, answer = provider.answer(body)
            if body.get("stream") and status == 200:
                (item,) = answer["output"]
                delta = {"type": "response.output_text.delta", "output_index": 0, "content_index": 0}
                events = [
                    {"type": "response.created", "response": {**answer, "status": "in_progress", "output": []}},
                    {"type": "response.output_item.added", "output_index": 0, "item": {**item, "content": []}},
                    {**delta, "item_id": item["id"], "delta": item["content"][0]["text"]},
                    {"type": "response.output_item.done", "output_index": 0, "item": item},
                    {"type": "response.completed", "response": answer},
                ]
                self._send(200, "text/event-stream", "".join(f"data: {json.dumps(each)}\n\n" for each in events))
            else:
                self._send(status, "application/json", json.dumps(answer))

        def do_GET(self) -> None:
            self._send(404, "application/json", "{}")

        def _send(self, status: int, content_type: str, text: str) -> None:
            content = text.encode()
            self.send_response(status)
            self.send_header("content-type", content_type)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        provider.url = f"http://127.0.0.1:{server.server_port}/v1"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield provider
        finally:
            server.shutdown()
            thread.join()
