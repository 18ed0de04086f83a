"""The simulator as a client sees it: a process of its own, called over real sockets."""

import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

import httpx

from tests.support.waiting import await_until

ROOT = Path(__file__).parents[2]
KEY = "test-key"

Json = dict[str, Any]


class Provider:
    """A running simulator and a client for it."""

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self.process = process
        self.url = url
        self.port = int(url.rpartition(":")[2])
        self.http = httpx.Client(base_url=url, headers={"authorization": f"Bearer {KEY}"}, timeout=10, trust_env=False)

    def body(self, prompt: Any = "Hello", **fields: Any) -> Json:
        return {"model": "openai/o3-pro", "input": prompt, **fields}

    def ask(self, prompt: Any = "Hello", call_id: str | None = None, **fields: Any) -> httpx.Response:
        headers = {} if call_id is None else {"x-client-request-id": call_id}
        return self.http.post("/v1/responses", json=self.body(prompt, **fields), headers=headers)

    def events(self, prompt: Any = "Hello", **fields: Any) -> list[Json]:
        """Return the SSE events of one streamed call, each with its `event:` line checked against its type."""
        text = self.ask(prompt, stream=True, **fields).text
        assert text.endswith("\n\n")
        return [read_frame(block) for block in text.removesuffix("\n\n").split("\n\n")]

    def configure(self, **options: Any) -> Json:
        answer = self.http.put("/_script", json=options)
        assert answer.status_code == 200, answer.text
        configured: Json = answer.json()
        return configured

    def reset(self) -> None:
        self.http.delete("/_script")
        self.http.delete("/_calls")

    def call_log(self, **filters: Any) -> Json:
        answer = self.http.get("/_calls", params=filters)
        assert answer.status_code == 200, answer.text
        call_log: Json = answer.json()
        return call_log

    def calls(self, **filters: Any) -> list[Json]:
        calls: list[Json] = self.call_log(**filters)["calls"]
        return calls

    def only_call(self) -> Json:
        (call,) = self.calls()
        return call

    def await_calls(self, holds: Callable[[Json], bool], **filters: Any) -> Json:
        """Return the call log as soon as `holds` is true of it."""

        def look() -> Json | None:
            call_log = self.call_log(**filters)
            return call_log if holds(call_log) else None

        return await_until(look, 5, lambda: str(self.call_log(**filters)["summary"]))

    def await_call(self, outcome: str) -> Json:
        """Return the only call, once it has this outcome."""
        call_log = self.await_calls(lambda call_log: any(call["outcome"] == outcome for call in call_log["calls"]))
        (call,) = call_log["calls"]
        found: Json = call
        return found

    def raw(self, prompt: Any = "Hello", **fields: Any) -> "RawCall":
        return RawCall(self.port, self.body(prompt, **fields))


class RawCall:
    """A call written and read byte by byte."""

    def __init__(self, port: int, body: Json, call_id: str | None = None) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self.socket.sendall(http_request(body, call_id or f"raw_{uuid4().hex}:1"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def read_until(self, marker: bytes) -> bytes:
        """Return what arrives up to and including `marker`."""
        got = b""
        while marker not in got:
            piece = self.socket.recv(65536)
            assert piece, got
            got += piece
        return got

    def read_to_end(self) -> tuple[bytes, bool]:
        """Return everything until the connection ends, and whether a reset ended it."""
        got = b""
        try:
            while piece := self.socket.recv(65536):
                got += piece
        except ConnectionResetError:
            return got, True
        return got, False


def http_request(body: Json, call_id: str) -> bytes:
    content = json.dumps(body).encode()
    head = (
        "POST /v1/responses HTTP/1.1\r\nHost: simulator\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {KEY}\r\nX-Client-Request-Id: {call_id}\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


def read_frame(block: str) -> Json:
    lines = block.split("\n")
    event: Json = json.loads(lines[-1].removeprefix("data: "))
    assert lines[:-1] == ([f"event: {event['type']}"] if "type" in event else [])
    return event


@contextmanager
def running(*flags: str) -> Iterator[Provider]:
    """Run a simulator process, and stop it at the end."""
    command = [sys.executable, "-m", "simulator", "--port", "0", "--delay", "0", *flags]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("simulator listening on http://127.0.0.1:"), line
            provider = Provider(process, line.split()[-1])
            with provider.http:
                yield provider
        finally:
            process.terminate()
            process.wait(timeout=5)
