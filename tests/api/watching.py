"""Streams: read as a client does, written as a worker does."""

import json
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event as Signal
from typing import Any

from jobs.store.attempts import attempts_of
from jobs.store.stream_events import append, last_chunk
from tests.api.world import (
    TEXT,
    FakeWorker,
    Json,
    Server,
    Tenant,
    message,
)
from tests.support.waiting import await_until
from worker.live_stream import LiveOutput
from worker.provider.sse import ServerSentEvent
from worker.provider.stream_assembly import StreamAssembly

OPENING = ["response.created", "response.queued", "response.in_progress"]
OUTPUT_EVENTS = [
    "response.output_item.added",
    "response.content_part.added",
    "response.output_text.delta",
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done",
]


class EventWriter:
    """Writes stream events as a worker does for a streaming provider."""

    def __init__(self, server: Server, worker: FakeWorker, job_id: str) -> None:
        self._server = server
        self._job_id = job_id
        worker.claim(job_id)
        with server.database.read() as tx:
            attempt = attempts_of(tx, job_id)[-1]
            self._output = LiveOutput(attempt, last_chunk(tx, job_id), Signal())
        self._assembly = StreamAssembly(limit=1_000_000, on_events=self._output.record, emitted=self._output.emitted)
        server.state.notifier.wrote(job_id)

    def write(self, kind: str, **fields: Any) -> None:
        self._assembly.take(ServerSentEvent("", json.dumps({"type": kind, "output_index": 0, **fields}).encode()))
        chunk = self._output.unwritten()
        assert chunk is not None, f"{kind} was not written"
        with self._server.database.begin() as tx:
            append(tx, [chunk])
        self._output.confirm(chunk)
        self._server.state.notifier.wrote(self._job_id)

    def begin(self) -> None:
        item = {"id": "msg_1", "type": "message", "role": "assistant", "status": "in_progress", "content": []}
        self.write("response.output_item.added", item=item)

    def text(self, text: str = TEXT) -> None:
        self.write("response.output_text.delta", item_id="msg_1", content_index=0, delta=text)

    def end(self) -> None:
        self.write("response.output_item.done", item=message(TEXT))


def frames(raw: str) -> list[Json]:
    """Return the events of a stream. Other than events it may hold comments and a final `[DONE]`."""
    events = []
    for block in raw.removesuffix("\n\n").split("\n\n"):
        if block == "data: [DONE]":
            assert raw.endswith(block + "\n\n")
            assert raw.count(block) == 1
            continue
        if block.startswith(": "):
            continue
        name, data = block.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        events.append(event)
    return events


def stream(tenant: Tenant, job_id: str, **query: Any) -> list[Json]:
    answer = tenant.http.get(f"/v1/responses/{job_id}", params={"stream": True, **query})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["openai-response-id"] == job_id
    return frames(answer.text) if answer.text else []


@contextmanager
def watching(server: Server, tenant: Tenant, job_id: str, **query: Any) -> Iterator[Future[list[Json]]]:
    with ThreadPoolExecutor(1) as pool:
        events = pool.submit(stream, tenant, job_id, **query)
        await_until(lambda: watchers(server, job_id) or events.done(), 5, "the stream has not started")
        try:
            yield events
        except BaseException:
            tenant.http.delete(f"/v1/responses/{job_id}")  # else the thread would never end
            raise


def watchers(server: Server, job_id: str) -> int:
    return len(server.state.listener._watching.get(job_id, ()))


def kinds(events: list[Json]) -> list[str]:
    assert [each["sequence_number"] for each in events] == list(range(len(events)))
    return [each["type"] for each in events]
