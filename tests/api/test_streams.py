"""Streams as clients meet them, over an API whose worker is the test's own hand."""

import json
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from threading import Event as Signal
from typing import Any

import httpx
import pytest
from openai import OpenAI

import api.sequences
import api.streams
from api.sequences import CHUNKS_PER_LOOK, look
from jobs.errors import ErrorKind, Failure
from jobs.lifecycle import Status
from jobs.sequence import LIVE_FROM, Progress
from jobs.store.attempts import attempts_of
from jobs.store.chains import note_sent
from jobs.store.queries import get_document
from jobs.store.streams import Chunk, append, last_chunk
from tests.api.world import (
    MODEL,
    TEXT,
    Hand,
    Json,
    Server,
    Tenant,
    a_tenant,
    assert_error,
    message,
    serve,
    settings_for,
)
from tests.support.valkey import ValkeyServer
from tests.support.waiting import await_until
from worker.live import LiveOutput
from worker.maintenance import followers

OPENING = ["response.created", "response.queued", "response.in_progress"]
TOLD = [
    "response.output_item.added",
    "response.content_part.added",
    "response.output_text.delta",
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done",
]


@pytest.fixture
def sdk(server: Server, tenant: Tenant) -> Iterator[OpenAI]:
    with OpenAI(
        base_url=f"{server.url}/v1", api_key=tenant.secret, max_retries=0, _strict_response_validation=True
    ) as client:
        yield client


class Teller:
    """Says what a streaming provider would, as the worker hears it."""

    def __init__(self, server: Server, hand: Hand, job_id: str) -> None:
        self._server = server
        self._job_id = job_id
        hand.claim(job_id)
        with server.database.read() as tx:
            attempt = attempts_of(tx, job_id)[-1]
            self._output = LiveOutput(attempt, last_chunk(tx, job_id), Signal())
        server.parts.announcer.wrote(job_id)

    def tell(self, kind: str, **fields: Any) -> None:
        self._output.hear(json.dumps({"type": kind, "output_index": 0, **fields}).encode())
        chunk = self._output.unwritten()
        assert chunk is not None, f"{kind} was not passed on"
        with self._server.database.begin() as tx:
            append(tx, [chunk])
        self._output.confirm(chunk)
        self._server.parts.announcer.wrote(self._job_id)

    def begin(self) -> None:
        item = {"id": "msg_1", "type": "message", "role": "assistant", "status": "in_progress", "content": []}
        self.tell("response.output_item.added", item=item)

    def text(self, text: str = TEXT) -> None:
        self.tell("response.output_text.delta", item_id="msg_1", content_index=0, delta=text)

    def end(self) -> None:
        self.tell("response.output_item.done", item=message(TEXT))


def frames(raw: str) -> list[Json]:
    """The events of a stream, which holds nothing else but comments."""
    events = []
    for block in raw.removesuffix("\n\n").split("\n\n"):
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
        await_until(lambda: watchers(server, job_id) or events.done(), 5, "nobody watches")
        try:
            yield events
        except BaseException:
            tenant.http.delete(f"/v1/responses/{job_id}")  # else it would be watched for ever
            raise


def watchers(server: Server, job_id: str) -> int:
    return len(server.parts.waiters._watching.get(job_id, ()))


def kinds(events: list[Json]) -> list[str]:
    assert [each["sequence_number"] for each in events] == list(range(len(events)))
    return [each["type"] for each in events]


def test_created_as_a_stream(sdk: OpenAI, tenant: Tenant, hand: Hand) -> None:
    with sdk.responses.create(model=MODEL, input="Hello", stream=True, metadata={"ticket": "4711"}) as events:
        first = next(events)
        assert first.type == "response.created"
        assert (first.response.status, first.response.metadata) == ("queued", {"ticket": "4711"})
        assert next(events).type == "response.queued"
        assert tenant.get(first.response.id)["status"] == "queued"
        hand.complete(first.response.id)
        rest = [each.type for each in events]
    assert rest == ["response.in_progress", *TOLD, "response.completed"]


def test_a_response_that_was_never_to_stream_can_be_watched_too(server: Server, tenant: Tenant, hand: Hand) -> None:
    job_id = tenant.submit()["id"]
    with watching(server, tenant, job_id) as events:
        hand.complete(job_id)
        assert kinds(events.result(5)) == [*OPENING, *TOLD, "response.completed"]
    last = stream(tenant, job_id)[-1]["response"]
    assert last == tenant.get(job_id)


@pytest.mark.parametrize(
    ("status", "last"),
    [
        (Status.COMPLETED, "response.completed"),
        (Status.INCOMPLETE, "response.incomplete"),
        (Status.FAILED, "response.failed"),
        (Status.CANCELLED, "response.failed"),
    ],
)
def test_the_last_event_holds_the_response(tenant: Tenant, hand: Hand, status: Status, last: str) -> None:
    job_id = tenant.submit(stream=False)["id"]
    hand.bring_to(status, job_id)
    events = stream(tenant, job_id)
    assert kinds(events)[-1] == last
    assert events[-1]["response"] == tenant.get(job_id)
    begins_with = OPENING[:2] if status is Status.CANCELLED else OPENING  # which no worker ever had
    assert kinds(events)[: len(begins_with)] == begins_with
    for number in range(len(events)):
        assert stream(tenant, job_id, starting_after=number) == events[number + 1 :]
    assert stream(tenant, job_id, starting_after=10_000) == []


def test_what_is_told_comes_at_once_and_the_answer_adds_the_rest(server: Server, tenant: Tenant, hand: Hand) -> None:
    job_id = tenant.submit()["id"]
    with watching(server, tenant, job_id) as events, watching(server, tenant, job_id, starting_after=4) as later:
        teller = Teller(server, hand, job_id)
        teller.begin()
        teller.text("The answer ")
        assert kinds(stream_until(server, tenant, job_id, 6)) == [*OPENING, *TOLD[:3]]
        teller.text("is 42.")
        teller.end()
        hand.complete(job_id)
        whole = events.result(5)
        assert later.result(5) == whole[5:]
    assert kinds(whole) == [*OPENING, *TOLD[:3], TOLD[2], TOLD[-1], "response.completed"]
    assert stream(tenant, job_id) == whole


def test_a_follow_ups_sequence_is_the_same_at_any_time(server: Server, tenant: Tenant, hand: Hand) -> None:
    first = tenant.submit()["id"]
    job_id = tenant.submit("And then?", previous_response_id=first)["id"]
    with watching(server, tenant, job_id) as events:
        assert kinds(stream_until(server, tenant, job_id, 2)) == OPENING[:2]
        hand.complete(first)
        followers.run_once(server.database, server.parts.announcer, datetime.now(UTC))
        hand.claim(job_id)
        with server.database.begin() as tx:
            note_sent(tx, attempts_of(tx, job_id)[-1], 2, 3, datetime.now(UTC))
        hand.complete(job_id)
        live = events.result(5)
    assert stream(tenant, job_id) == live


def stream_until(server: Server, tenant: Tenant, job_id: str, count: int) -> list[Json]:
    """The first events of a response that goes on."""
    with tenant.http.stream("GET", f"/v1/responses/{job_id}?stream=true") as answer:
        raw = ""
        for text in answer.iter_text():
            raw += text
            if raw.count("\n\n") >= count:
                return frames(raw)
    raise AssertionError(f"the stream ended: {raw}")


def test_another_process_tells_the_same(server: Server, tenant: Tenant, hand: Hand) -> None:
    job_id = tenant.submit()["id"]
    with serve(server.settings) as another, another.client(tenant.secret) as http:
        elsewhere = Tenant(tenant.id, tenant.secret, http)
        with watching(another, elsewhere, job_id) as there, watching(server, tenant, job_id) as here:
            teller = Teller(server, hand, job_id)
            teller.begin()
            teller.text()
            hand.complete(job_id)
            assert there.result(5) == here.result(5)


@pytest.mark.parametrize("mishap", ["flushed", "gone"])
def test_redis_only_saves_time(shared_database_url: str, valkey: ValkeyServer, mishap: str) -> None:
    with serve(settings_for(shared_database_url, valkey.url)) as server, a_tenant(server) as tenant:
        hand = Hand(server)
        job_id = tenant.submit()["id"]
        with watching(server, tenant, job_id) as events:
            teller = Teller(server, hand, job_id)
            teller.begin()
            if mishap == "flushed":
                valkey.flush()
            else:
                valkey.stop()
            teller.text()
            hand.complete(job_id)
            assert kinds(events.result(8)) == [*OPENING, *TOLD[:3], TOLD[-1], "response.completed"]


def test_a_lost_attempts_item_is_closed_and_the_next_begins_behind_it(
    server: Server, tenant: Tenant, hand: Hand
) -> None:
    job_id = tenant.submit()["id"]
    teller = Teller(server, hand, job_id)
    teller.begin()
    teller.text("Lost.")
    hand.put_off(job_id, Failure(ErrorKind.INTERRUPTED, "The line broke."), timedelta(0))
    again = Teller(server, hand, job_id)
    item = {"id": "msg_2", "type": "message", "role": "assistant", "status": "in_progress", "content": []}
    again.tell("response.output_item.added", item=item)
    hand.complete(job_id)
    events = stream(tenant, job_id)
    done = [each for each in events if each["type"] == "response.output_item.done"]
    assert [(each["output_index"], each["item"]["id"], each["item"]["status"]) for each in done] == [
        (0, "msg_1", "incomplete"),
        (1, "msg_2", "incomplete"),  # msg_1 was taken by the lost one, so nothing of the answer is told but its end
    ]
    assert events[-1]["response"]["output"] == [message(TEXT)]


def test_a_late_attempt_adds_nothing(server: Server, tenant: Tenant, hand: Hand) -> None:
    job_id = tenant.submit()["id"]
    Teller(server, hand, job_id).begin()
    hand.cancel(job_id)
    before = stream(tenant, job_id)
    event = {"type": "response.output_text.delta", "output_index": 0, "delta": "late"}
    with server.database.begin() as tx:
        assert append(tx, [Chunk(job_id, 1, LIVE_FROM + 1, [event], Progress())]) == set()
    assert stream(tenant, job_id) == before


def test_a_commit_whose_confirmation_was_lost_is_not_told_twice(server: Server, tenant: Tenant, hand: Hand) -> None:
    job_id = tenant.submit()["id"]
    hand.claim(job_id)
    told = [{"type": "response.output_text.delta", "output_index": 0, "delta": str(number)} for number in range(5)]
    for count in (3, 3, 5):
        with server.database.begin() as tx:
            assert append(tx, [Chunk(job_id, 1, LIVE_FROM, told[:count], Progress())]) == {job_id}
    hand.cancel(job_id)
    assert [each["delta"] for each in stream(tenant, job_id) if "delta" in each] == list("01234")


def test_a_retry_tells_a_new_sequence(server: Server, tenant: Tenant, hand: Hand) -> None:
    job_id = tenant.submit()["id"]
    Teller(server, hand, job_id).begin()
    hand.cancel(job_id)
    assert kinds(stream(tenant, job_id)) == [*OPENING, TOLD[0], "response.failed"]
    tenant.http.post(f"/v1/responses/{job_id}/retry").raise_for_status()
    hand.complete(job_id)
    assert kinds(stream(tenant, job_id)) == [*OPENING, *TOLD, "response.completed"]


def test_one_that_is_deleted_meanwhile_ends_with_an_error(server: Server, tenant: Tenant) -> None:
    job_id = tenant.submit()["id"]
    with watching(server, tenant, job_id) as events:
        tenant.http.delete(f"/v1/responses/{job_id}")
        last = events.result(10)[-1]
    assert last["type"] in {"error", "response.failed"}  # it was cancelled first, which may have been seen
    assert_error(tenant.http.get(f"/v1/responses/{job_id}?stream=true"), 404, param="response_id")


def test_foreign_and_wrong_ones_are_refused(tenant: Tenant, other: Tenant) -> None:
    job_id = tenant.submit()["id"]
    assert_error(other.http.get(f"/v1/responses/{job_id}?stream=true"), 404, param="response_id")
    for wrong in ("-1", "x", "1.5", str(2**31)):
        answer = tenant.http.get(f"/v1/responses/{job_id}?stream=true&starting_after={wrong}")
        assert_error(answer, 400, code="invalid_value", param="starting_after")


def test_a_stream_sent_again_under_its_key_is_the_same_stream(tenant: Tenant, hand: Hand) -> None:
    def create() -> list[Json]:
        answer = tenant.http.post(
            "/v1/responses",
            json={"model": MODEL, "input": "Hello", "stream": True},
            headers={"idempotency-key": "once"},
        )
        return frames(answer.text)

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(create)
        hand.complete(tenant.only_id())
        assert create() == first.result(5)
    assert len(tenant.ids()) == 1


def test_silence_is_filled_with_comments(
    server: Server, sdk: OpenAI, hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api.streams, "KEEPALIVE_SECONDS", 0.1)
    with sdk.responses.with_streaming_response.create(model=MODEL, input="Hello", stream=True) as raw:
        job_id = raw.headers["openai-response-id"]
        text = ""
        for piece in raw.iter_text():
            text += piece
            if text.count(": keepalive\n\n") >= 3 and hand.job(job_id).status is Status.QUEUED:
                hand.complete(job_id)
        assert kinds(frames(text)) == [*OPENING, *TOLD, "response.completed"]
    with sdk.responses.retrieve(job_id, stream=True) as events:
        assert [each.type for each in events] == [*OPENING, *TOLD, "response.completed"]


def request_bytes(tenant: Tenant, job_id: str) -> bytes:
    head = f"GET /v1/responses/{job_id}?stream=true HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {tenant.secret}\r\n"
    return f"{head}connection: close\r\n\r\n".encode()


def test_a_client_that_vanishes_frees_its_place(server: Server, tenant: Tenant) -> None:
    job_id = tenant.submit()["id"]
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(request_bytes(tenant, job_id))
        await_until(lambda: watchers(server, job_id), 5, "nobody watches")
    await_until(lambda: not watchers(server, job_id), 2, "its place is still taken")
    await_until(lambda: not server.uvicorn.server_state.tasks, 2, "its request is still served")
    assert tenant.get(job_id)["status"] == "queued"


def test_a_slow_reader_is_read_for_no_further_than_it_has_come(
    server: Server, tenant: Tenant, hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = tenant.submit()["id"]
    hand.claim(job_id)
    big = "x" * 200_000
    chunks = 96
    for number in range(chunks):
        event = {"type": "response.output_text.delta", "output_index": 0, "delta": big}
        with server.database.begin() as tx:
            append(tx, [Chunk(job_id, 1, LIVE_FROM + number, [event], Progress())])
    hand.cancel(job_id)
    asked: list[int] = []
    read = server.parts.sequences.read

    async def counting(job: str, key: str, number: int) -> Any:
        asked.append(number)
        return await read(job, key, number)

    monkeypatch.setattr(server.parts.sequences, "read", counting)
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
    """The count once it has not changed for a while."""
    seen = [(time.monotonic(), count())]

    def still() -> bool:
        if count() != seen[-1][1]:
            seen.append((time.monotonic(), count()))
        return time.monotonic() - seen[-1][0] > 0.5

    await_until(still, 20, "it never stood still")
    return seen[-1][1]


def test_a_server_that_stops_says_so_under_a_number_that_is_not_taken(server: Server, hand: Hand) -> None:
    with serve(server.settings) as stopping, a_tenant(stopping) as tenant:
        job_id = tenant.submit()["id"]
        with watching(stopping, tenant, job_id) as events:
            stopping.stop()
            told = events.result(10)
    assert [each["type"] for each in told] == [*OPENING[:2], "error"]
    assert (told[-1]["code"], told[-1]["sequence_number"]) == ("service_unavailable", 1)
    assert hand.job(job_id).status == "queued"


def test_an_sdk_sees_an_error_event(server: Server) -> None:
    with (
        serve(server.settings) as stopping,
        a_tenant(stopping) as tenant,
        OpenAI(base_url=f"{stopping.url}/v1", api_key=tenant.secret, max_retries=0) as sdk,
    ):
        events = sdk.responses.create(model=MODEL, input="Hello", stream=True)
        seen = [next(events), next(events)]
        stopping.stop()
        seen += list(events)
    assert [each.type for each in seen] == [*OPENING[:2], "error"]


def test_what_is_run_again_while_its_end_is_read_has_not_ended(
    server: Server, tenant: Tenant, hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = tenant.submit()["id"]
    job = hand.fail(job_id, Failure(ErrorKind.REJECTED, "The provider refuses.", 400))

    def run_again_first(tx: Any, *whose: str) -> Any:
        tenant.http.post(f"/v1/responses/{job_id}/retry").raise_for_status()
        return get_document(tx, *whose)

    monkeypatch.setattr(api.sequences, "get_document", run_again_first)
    page = look(server.database, job_id, job.api_key_id, LIVE_FROM)
    assert (page.frames, page.is_last) == ((), False)


def test_streams_hold_no_connection_to_the_database(server: Server, tenant: Tenant, hand: Hand) -> None:
    job_id = tenant.submit()["id"]
    with ThreadPoolExecutor(60) as pool:
        clients = [httpx.Client(base_url=server.url, headers=tenant.http.headers, timeout=30) for _ in range(60)]
        answers = [pool.submit(each.get, f"/v1/responses/{job_id}?stream=true") for each in clients]
        await_until(lambda: watchers(server, job_id) == 60, 20, "not all watch")
        pool_of_engine: Any = server.database.engine.pool
        await_until(lambda: pool_of_engine.checkedout() == 0, 5, "a connection is held")
        hand.complete(job_id)
        assert len({each.result(10).text for each in answers}) == 1
        for each in clients:
            each.close()
