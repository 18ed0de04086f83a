"""A fake API for the client commands. A job goes to its next stage on each poll, keys are checked, and requests can be
made to fail.
"""

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

KEY = "bb_the-right-key"
USAGE_ROW = {
    "day": "2026-11-22",
    "model": "openai/o3-pro",
    "api_key_id": "key_1",
    "api_key_name": "alice",
    "calls": 2,
    "input_tokens": 1200,
    "output_tokens": 3400,
    "cached_tokens": 0,
    "reasoning_tokens": 3000,
    "total_tokens": 4600,
    "cost_usd": 1.25,
    "calls_of_unknown_cost": 0,
}


def attempt_row(number: int, outcome: str, **fields: Any) -> dict[str, Any]:
    """Return the row of a call that took 61 seconds."""
    times = {"started_at": 1_790_000_000.0, "ended_at": 1_790_000_061.0}
    row = {"id": f"resp_1:{number}", "number": number, "outcome": outcome, "billed": "likely", "body": None, **times}
    return {**row, "http_status": 200, "error": None, "usage": None, "cost_usd": None, **fields}


@dataclass(frozen=True)
class ReceivedRequest:
    """A request that the server received."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: dict[str, Any]


@dataclass
class Fake:
    """The jobs, and the behaviour of the next requests. `stages` are a job's statuses, one per poll."""

    stages: tuple[str, ...] = ("queued", "in_progress", "completed")
    created_at: float = field(default_factory=time.time)
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    requests: list[ReceivedRequest] = field(default_factory=list)
    usage: list[dict[str, Any]] = field(default_factory=lambda: [USAGE_ROW])
    attempts: list[list[dict[str, Any]]] = field(default_factory=list)
    free_calls: int = 0
    calls: int | None = None
    """Number of calls that were made. If None, each poll makes one."""
    waiting_for: list[str] = field(default_factory=list)
    broken_creates: int = 0
    broken_polls: int = 0
    polled: threading.Event = field(default_factory=threading.Event)

    def answer(self, request: ReceivedRequest) -> tuple[int, dict[str, Any]] | None:
        """Return status and body, or None to break the connection."""
        self.requests.append(request)
        if request.headers.get("authorization") != f"Bearer {KEY}":
            return 401, _error("Incorrect API key provided.", "authentication_error", "invalid_api_key")
        name, _, verb = request.path.removeprefix("/v1/").removeprefix("responses").strip("/").partition("/")
        if request.path == "/v1/models":
            return 200, {"object": "list", "data": [{"id": "openai/o3-pro"}, {"id": "other"}]}
        if request.path == "/v1/usage":
            return 200, {"object": "list", "data": self.usage}
        if not name:
            return self._create(request) if request.method == "POST" else self._list(request)
        if name not in self.jobs:
            return 404, _error(f"Response with id '{name}' not found.", "invalid_request_error", None)
        return self._poll(name, verb)

    def _create(self, request: ReceivedRequest) -> tuple[int, dict[str, Any]] | None:
        key = request.headers["idempotency-key"]
        job = self.jobs.setdefault(f"resp_{key}", {"body": request.body, "polls": 0})
        if self.broken_creates:
            self.broken_creates -= 1
            return None
        return 200, self._shown(f"resp_{key}", job)

    def _list(self, request: ReceivedRequest) -> tuple[int, dict[str, Any]]:
        shown = [self._shown(name, job) for name, job in self.jobs.items()][: int(request.query["limit"])]
        return 200, {"object": "list", "data": shown, "has_more": len(shown) < len(self.jobs)}

    def _poll(self, name: str, verb: str) -> tuple[int, dict[str, Any]] | None:
        job = self.jobs[name]
        if verb == "attempts":
            return 200, self._attempts(self.requests[-1].query)
        if verb == "cancel":
            job["end"] = "cancelled"
        elif verb == "retry":
            job |= {"end": None, "polls": 0}
        else:
            if self.broken_polls and job["polls"]:
                self.broken_polls -= 1
                return None
            job["polls"] += 1
        self.polled.set()
        return 200, self._shown(name, job)

    def _attempts(self, query: dict[str, str]) -> dict[str, Any]:
        """Return a page of attempts, with bodies only if requested."""
        place = next((n for n, page in enumerate(self.attempts, 1) if page[-1]["id"] == query.get("after")), 0)
        page = [dict(each) for each in self.attempts[place]]
        for each in page:
            if query.get("include") != "body":
                del each["body"]
        has_more = place + 1 < len(self.attempts)
        return {
            "object": "list",
            "data": page,
            "first_id": page[0]["id"],
            "last_id": page[-1]["id"],
            "has_more": has_more,
        }

    def _waiting_for(self, status: str) -> str | None:
        """Return the next of `waiting_for`; repeat the last one."""
        if status != "queued" or not self.waiting_for:
            return None
        return self.waiting_for.pop(0) if len(self.waiting_for) > 1 else self.waiting_for[0]

    def _shown(self, name: str, job: dict[str, Any]) -> dict[str, Any]:
        status = job.get("end") or self.stages[min(job["polls"], len(self.stages) - 1)]
        text = f"You said {job['body'].get('input')}"
        message = {"type": "message", "content": [{"type": "output_text", "text": text}]}
        ended = status in {"completed", "incomplete"}
        failed = {"code": "provider_rejected", "message": "Unsupported value."}
        attempt = job["polls"] + self.free_calls if self.calls is None else self.calls
        position = 3 if status == "queued" else None
        ours = {"attempt": attempt, "max_attempts": 5, "queue_position": position}
        return {
            "id": name,
            "object": "response",
            "status": status,
            "created_at": self.created_at,
            "completed_at": self.created_at + 61 if ended else None,
            "model": job["body"]["model"],
            "output": [{"type": "reasoning", "summary": []}, message] if ended else [],
            "error": failed if status == "failed" else None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "usage": {"input_tokens": 1000, "output_tokens": 234, "total_tokens": 1234} if ended else None,
            "backburner": {
                **ours,
                "waiting_for": self._waiting_for(status),
                "cost_usd": 0.0123 if ended else None,
                "error": None,
            },
        }


class FakeServer:
    """Serve a `Fake` on a loopback port."""

    def __init__(self, fake: Fake) -> None:
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(fake.answer))
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


def _handler(
    answer: Callable[[ReceivedRequest], tuple[int, dict[str, Any]] | None],
) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            url = urlsplit(self.path)
            raw = self.rfile.read(int(self.headers.get("content-length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            body = json.loads(raw) if raw else {}
            result = answer(ReceivedRequest(self.command, url.path, dict(parse_qsl(url.query)), headers, body))
            if result is None:
                self.close_connection = True
                return
            status, answer_body = result
            encoded = json.dumps(answer_body).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(encoded)))
            self.send_header("x-request-id", "req_77")
            self.end_headers()
            self.wfile.write(encoded)

        def do_GET(self) -> None:
            self._serve()

        def do_POST(self) -> None:
            self._serve()

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    return Handler


def _error(message: str, kind: str, code: str | None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}
