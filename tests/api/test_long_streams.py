"""Long streams: silence, clients that disconnect or read slowly, and a server that stops."""

import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from openai import APIError, OpenAI

import api.held_response
import api.sse
from api.sse import CHUNKS_PER_LOOK
from jobs.event_stream import LIVE_FROM, Progress
from jobs.lifecycle import Status
from jobs.store.stream_events import Chunk, append
from tests.api.watching import OPENING, OUTPUT_EVENTS, frames, kinds, watchers, watching
from tests.api.world import (
    MODEL,
    FakeWorker,
    Server,
    Tenant,
    a_tenant,
    serve,
)
from tests.support.waiting import await_until

pytestmark = pytest.mark.one_database


def test_silence_is_filled_with_comments(
    server: Server, sdk: OpenAI, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api.held_response, "KEEPALIVE_SECONDS", 0.1)
    with sdk.responses.with_streaming_response.create(model=MODEL, input="Hello", stream=True) as raw:
        job_id = raw.headers["openai-response-id"]
        text = ""
        for piece in raw.iter_text():
            text += piece
            if text.count(": keepalive\n\n") >= 3 and worker.job(job_id).status is Status.QUEUED:
                worker.complete(job_id)
        assert kinds(frames(text)) == [*OPENING, *OUTPUT_EVENTS, "response.completed"]
    with sdk.responses.retrieve(job_id, stream=True) as events:
        assert [each.type for each in events] == [*OPENING, *OUTPUT_EVENTS, "response.completed"]


def request_bytes(tenant: Tenant, job_id: str) -> bytes:
    head = f"GET /v1/responses/{job_id}?stream=true HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {tenant.secret}\r\n"
    return f"{head}connection: close\r\n\r\n".encode()


def test_disconnecting_ends_the_subscription(server: Server, tenant: Tenant) -> None:
    job_id = tenant.submit()["id"]
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(request_bytes(tenant, job_id))
        await_until(lambda: watchers(server, job_id), 5, "nobody watches")
    await_until(lambda: not watchers(server, job_id), 2, "its place is still taken")
    await_until(lambda: not server.uvicorn.server_state.tasks, 2, "its request is still served")
    assert tenant.get(job_id)["status"] == "queued"


def test_events_are_read_only_as_fast_as_a_slow_client_reads(
    server: Server, tenant: Tenant, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = tenant.submit()["id"]
    worker.claim(job_id)
    big = "x" * 200_000
    chunks = 96
    for number in range(chunks):
        event = {"type": "response.output_text.delta", "output_index": 0, "delta": big}
        with server.database.begin() as tx:
            append(tx, [Chunk(job_id, 1, LIVE_FROM + number, [event], Progress())])
    worker.cancel(job_id)
    asked: list[int] = []
    read = server.state.sequences.read

    async def counting(job: str, key: str, number: int) -> Any:
        asked.append(number)
        return await read(job, key, number)

    monkeypatch.setattr(server.state.sequences, "read", counting)
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        connection.sendall(request_bytes(tenant, job_id))
        await_until(lambda: asked, 5, "nothing was read")
        settled = await_stillness(lambda: len(asked))
        assert settled < chunks / CHUNKS_PER_LOOK
        raw = b""
        while piece := connection.recv(1 << 20):
            raw += piece
    assert raw.count(big.encode()) == chunks
    assert b"event: response.failed" in raw


def await_stillness(count: Callable[[], int]) -> int:
    """Return the count once it has not changed for a while."""
    seen = [(time.monotonic(), count())]

    def still() -> bool:
        if count() != seen[-1][1]:
            seen.append((time.monotonic(), count()))
        return time.monotonic() - seen[-1][0] > 0.5

    await_until(still, 20, "it never stood still")
    return seen[-1][1]


def test_a_server_that_stops_sends_an_error_with_an_unused_sequence_number(server: Server, worker: FakeWorker) -> None:
    with serve(server.settings) as stopping, a_tenant(stopping) as tenant:
        job_id = tenant.submit()["id"]
        with watching(stopping, tenant, job_id) as events:
            stopping.stop()
            received = events.result(10)
    assert [each["type"] for each in received] == [*OPENING[:2], "error"]
    assert (received[-1]["code"], received[-1]["sequence_number"]) == ("service_unavailable", 1)
    assert worker.job(job_id).status == "queued"


def test_an_sdk_sees_an_error_event(server: Server) -> None:
    with (
        serve(server.settings) as stopping,
        a_tenant(stopping) as tenant,
        OpenAI(base_url=f"{stopping.url}/v1", api_key=tenant.secret, max_retries=0) as sdk,
    ):
        events = sdk.responses.create(model=MODEL, input="Hello", stream=True)
        assert [next(events).type, next(events).type] == OPENING[:2]
        stopping.stop()
        with pytest.raises(APIError, match="The response continues") as raised:
            next(events)
    assert raised.value.code == "service_unavailable"


def test_streams_hold_no_connection_to_the_database(server: Server, tenant: Tenant, worker: FakeWorker) -> None:
    job_id = tenant.submit()["id"]
    with ThreadPoolExecutor(60) as pool:
        clients = [httpx.Client(base_url=server.url, headers=tenant.http.headers, timeout=30) for _ in range(60)]
        answers = [pool.submit(each.get, f"/v1/responses/{job_id}?stream=true") for each in clients]
        await_until(lambda: watchers(server, job_id) == 60, 20, "not all watch")
        pool_of_engine: Any = server.database.engine.pool
        await_until(lambda: pool_of_engine.checkedout() == 0, 5, "a connection is held")
        worker.complete(job_id)
        assert len({each.result(10).text for each in answers}) == 1
        for each in clients:
            each.close()
