"""A small server that behaves like the API as far as the client commands can see: jobs move on each time they are
looked at, keys are checked, and it can be made to fail.
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
    """A call that took 61 seconds."""
    times = {"started_at": 1_790_000_000.0, "ended_at": 1_790_000_061.0}
    row = {"id": f"resp_1:{number}", "number": number, "outcome": outcome, "billed": "likely", "body": None, **times}
    return {**row, "http_status": 200, "error": None, "usage": None, "cost_usd": None, **fields}


@dataclass(frozen=True)
class Asked:
    """One request as it came in."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: dict[str, Any]


@dataclass
class Fake:
    """The jobs, and how the next requests fare. `stages` is what a job goes through, one per look."""

    stages: tuple[str, ...] = ("queued", "in_progress", "completed")
    created_at: float = field(default_factory=time.time)
    jobs: dict[str, dict[str, Any]] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    usage: list[dict[str, Any]] = field(default_factory=lambda: [USAGE_ROW])
    attempts: list[list[dict[str, Any]]] = field(default_factory=list)
    free_calls: int = 0
    calls: int | None = None
    """So many were made, and no more are; else one for each look."""
    waiting_for: list[str] = field(default_factory=list)
    broken_creates: int = 0
    broken_looks: int = 0
    looked: threading.Event = field(default_factory=threading.Event)

    def answer(self, asked: Asked) -> tuple[int, dict[str, Any]] | None:
        """Status and body; None breaks the connection."""
        self.asked.append(asked)
        if asked.headers.get("authorization") != f"Bearer {KEY}":
            return 401, _error("Incorrect API key provided.", "authentication_error", "invalid_api_key")
        name, _, verb = asked.path.removeprefix("/v1/").removeprefix("responses").strip("/").partition("/")
        if asked.path == "/v1/models":
            return 200, {"object": "list", "data": [{"id": "openai/o3-pro"}, {"id": "other"}]}
        if asked.path == "/v1/usage":
            return 200, {"object": "list", "data": self.usage}
        if not name:
            return self._create(asked) if asked.method == "POST" else self._list(asked)
        if name not in self.jobs:
            return 404, _error(f"Response with id '{name}' not found.", "invalid_request_error", None)
        return self._look(name, verb)

    def _create(self, asked: Asked) -> tuple[int, dict[str, Any]] | None:
        key = asked.headers["idempotency-key"]
        job = self.jobs.setdefault(f"resp_{key}", {"body": asked.body, "looks": 0})
        if self.broken_creates:
            self.broken_creates -= 1
            return None
        return 200, self._shown(f"resp_{key}", job)

    def _list(self, asked: Asked) -> tuple[int, dict[str, Any]]:
        shown = [self._shown(name, job) for name, job in self.jobs.items()][: int(asked.query["limit"])]
        return 200, {"object": "list", "data": shown, "has_more": len(shown) < len(self.jobs)}

    def _look(self, name: str, verb: str) -> tuple[int, dict[str, Any]] | None:
        job = self.jobs[name]
        if verb == "attempts":
            return 200, self._attempts(self.asked[-1].query)
        if verb == "cancel":
            job["end"] = "cancelled"
        elif verb == "retry":
            job |= {"end": None, "looks": 0}
        else:
            if self.broken_looks and job["looks"]:
                self.broken_looks -= 1
                return None
            job["looks"] += 1
        self.looked.set()
        return 200, self._shown(name, job)

    def _attempts(self, query: dict[str, str]) -> dict[str, Any]:
        """A page of them; a call's body only where it was asked for."""
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
        """The next of `waiting_for`; the last one goes on for ever."""
        if status != "queued" or not self.waiting_for:
            return None
        return self.waiting_for.pop(0) if len(self.waiting_for) > 1 else self.waiting_for[0]

    def _shown(self, name: str, job: dict[str, Any]) -> dict[str, Any]:
        status = job.get("end") or self.stages[min(job["looks"], len(self.stages) - 1)]
        text = f"You said {job['body'].get('input')}"
        message = {"type": "message", "content": [{"type": "output_text", "text": text}]}
        ended = status in {"completed", "incomplete"}
        failed = {"code": "provider_rejected", "message": "Unsupported value."}
        made = job["looks"] + self.free_calls if self.calls is None else self.calls
        position = 3 if status == "queued" else None
        ours = {"attempt": made, "max_attempts": 5, "queue_position": position}
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
    """`fake` on a loopback port."""

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
    answer: Callable[[Asked], tuple[int, dict[str, Any]] | None],
) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            url = urlsplit(self.path)
            raw = self.rfile.read(int(self.headers.get("content-length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            body = json.loads(raw) if raw else {}
            answered = answer(Asked(self.command, url.path, dict(parse_qsl(url.query)), headers, body))
            if answered is None:
                self.close_connection = True
                return
            status, answer_body = answered
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
            """Keep the test's output to itself."""

    return Handler


def _error(message: str, kind: str, code: str | None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}
