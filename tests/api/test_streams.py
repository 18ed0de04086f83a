"""Events of streams, written by the test in place of a worker."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from openai import OpenAI

import api.held_response
import api.sse
from api.sse import look
from jobs.errors import ErrorKind, Failure
from jobs.event_stream import LIVE_FROM, Progress
from jobs.lifecycle import Status
from jobs.store.attempts import attempts_of
from jobs.store.conversations import note_sent
from jobs.store.responses import get_response_document
from jobs.store.stream_events import Chunk, append
from tests.api.watching import OPENING, OUTPUT_EVENTS, EventWriter, frames, kinds, stream, watching
from tests.api.world import (
    MODEL,
    TEXT,
    FakeWorker,
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
from worker.maintenance import follow_ups


def test_created_as_a_stream(sdk: OpenAI, tenant: Tenant, worker: FakeWorker) -> None:
    with sdk.responses.create(model=MODEL, input="Hello", stream=True, metadata={"ticket": "4711"}) as events:
        first = next(events)
        assert first.type == "response.created"
        assert (first.response.status, first.response.metadata) == ("queued", {"ticket": "4711"})
        assert next(events).type == "response.queued"
        assert tenant.get(first.response.id)["status"] == "queued"
        worker.complete(first.response.id)
        rest = [each.type for each in events]
    assert rest == ["response.in_progress", *OUTPUT_EVENTS, "response.completed"]


def test_a_response_created_without_stream_can_be_streamed_later(
    server: Server, tenant: Tenant, worker: FakeWorker
) -> None:
    job_id = tenant.submit()["id"]
    with watching(server, tenant, job_id) as events:
        worker.complete(job_id)
        assert kinds(events.result(5)) == [*OPENING, *OUTPUT_EVENTS, "response.completed"]
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
def test_the_last_event_holds_the_response(tenant: Tenant, worker: FakeWorker, status: Status, last: str) -> None:
    job_id = tenant.submit(stream=False)["id"]
    worker.bring_to(status, job_id)
    events = stream(tenant, job_id)
    assert kinds(events)[-1] == last
    polled = tenant.get(job_id)
    if status is Status.FAILED:  # a code that clients treat as final: decision 0013
        assert polled["error"]["code"] == events[-1]["response"]["backburner"]["error"]["code"] == "provider_rejected"
        polled["error"]["code"] = "invalid_prompt"
    assert events[-1]["response"] == polled
    begins_with = OPENING[:2] if status is Status.CANCELLED else OPENING  # no worker had claimed it
    assert kinds(events)[: len(begins_with)] == begins_with
    for number in range(len(events)):
        assert stream(tenant, job_id, starting_after=number) == events[number + 1 :]
    assert stream(tenant, job_id, starting_after=10_000) == []


def test_live_events_come_at_once_and_the_answer_adds_the_rest(
    server: Server, tenant: Tenant, worker: FakeWorker
) -> None:
    job_id = tenant.submit()["id"]
    with watching(server, tenant, job_id) as events, watching(server, tenant, job_id, starting_after=4) as later:
        teller = EventWriter(server, worker, job_id)
        teller.begin()
        teller.text("The answer ")
        assert kinds(stream_until(server, tenant, job_id, 6)) == [*OPENING, *OUTPUT_EVENTS[:3]]
        teller.text("is 42.")
        teller.end()
        worker.complete(job_id)
        whole = events.result(5)
        assert later.result(5) == whole[5:]
    assert kinds(whole) == [*OPENING, *OUTPUT_EVENTS[:3], *OUTPUT_EVENTS[2:], "response.completed"]
    assert stream(tenant, job_id) == whole


def test_a_follow_ups_events_are_the_same_at_any_time(server: Server, tenant: Tenant, worker: FakeWorker) -> None:
    first = tenant.submit()["id"]
    job_id = tenant.submit("And then?", previous_response_id=first)["id"]
    with watching(server, tenant, job_id) as events:
        assert kinds(stream_until(server, tenant, job_id, 2)) == OPENING[:2]
        worker.complete(first)
        follow_ups.run_once(server.database, server.state.notifier, datetime.now(UTC))
        worker.claim(job_id)
        with server.database.begin() as tx:
            note_sent(tx, attempts_of(tx, job_id)[-1], 2, 3, datetime.now(UTC))
        worker.complete(job_id)
        live = events.result(5)
    assert stream(tenant, job_id) == live


def stream_until(server: Server, tenant: Tenant, job_id: str, count: int) -> list[Json]:
    """Return the first events of an unfinished response."""
    with tenant.http.stream("GET", f"/v1/responses/{job_id}?stream=true") as answer:
        raw = ""
        for text in answer.iter_text():
            raw += text
            if raw.count("\n\n") >= count:
                return frames(raw)
    raise AssertionError(f"the stream ended: {raw}")


def test_another_process_streams_the_same_events(server: Server, tenant: Tenant, worker: FakeWorker) -> None:
    job_id = tenant.submit()["id"]
    with serve(server.settings) as another, another.client(tenant.secret) as http:
        elsewhere = Tenant(tenant.id, tenant.secret, http)
        with watching(another, elsewhere, job_id) as there, watching(server, tenant, job_id) as here:
            teller = EventWriter(server, worker, job_id)
            teller.begin()
            teller.text()
            worker.complete(job_id)
            assert there.result(5) == here.result(5)


@pytest.mark.parametrize("mishap", ["flushed", "gone"])
def test_events_arrive_without_redis_only_later(shared_database_url: str, valkey: ValkeyServer, mishap: str) -> None:
    with serve(settings_for(shared_database_url, valkey.url)) as server, a_tenant(server) as tenant:
        worker = FakeWorker(server)
        job_id = tenant.submit()["id"]
        with watching(server, tenant, job_id) as events:
            teller = EventWriter(server, worker, job_id)
            teller.begin()
            if mishap == "flushed":
                valkey.flush()
            else:
                valkey.stop()
            teller.text()
            worker.complete(job_id)
            assert kinds(events.result(8)) == [*OPENING, *OUTPUT_EVENTS[:3], OUTPUT_EVENTS[-1], "response.completed"]


def test_the_item_of_a_lost_attempt_is_closed_and_the_next_item_follows(
    server: Server, tenant: Tenant, worker: FakeWorker
) -> None:
    job_id = tenant.submit()["id"]
    teller = EventWriter(server, worker, job_id)
    teller.begin()
    teller.text("Lost.")
    worker.reschedule(job_id, Failure(ErrorKind.INTERRUPTED, "The line broke."), timedelta(0))
    again = EventWriter(server, worker, job_id)
    item = {"id": "msg_2", "type": "message", "role": "assistant", "status": "in_progress", "content": []}
    again.write("response.output_item.added", item=item)
    worker.complete(job_id)
    events = stream(tenant, job_id)
    done = [each for each in events if each["type"] == "response.output_item.done"]
    assert [(each["output_index"], each["item"]["id"], each["item"]["status"]) for each in done] == [
        (0, "msg_1", "completed"),
        (1, "msg_2", "completed"),  # the lost attempt used msg_1, so the answer's item is streamed only at the end
    ]
    assert events[-1]["response"]["output"] == [message(TEXT)]


def test_a_late_attempt_adds_nothing(server: Server, tenant: Tenant, worker: FakeWorker) -> None:
    job_id = tenant.submit()["id"]
    EventWriter(server, worker, job_id).begin()
    worker.cancel(job_id)
    before = stream(tenant, job_id)
    event = {"type": "response.output_text.delta", "output_index": 0, "delta": "late"}
    with server.database.begin() as tx:
        assert append(tx, [Chunk(job_id, 1, LIVE_FROM + 1, [event], Progress())]) == set()
    assert stream(tenant, job_id) == before


def test_events_of_a_commit_without_confirmation_are_not_streamed_twice(
    server: Server, tenant: Tenant, worker: FakeWorker
) -> None:
    job_id = tenant.submit()["id"]
    worker.claim(job_id)
    events = [{"type": "response.output_text.delta", "output_index": 0, "delta": str(number)} for number in range(5)]
    for count in (3, 3, 5):
        with server.database.begin() as tx:
            assert append(tx, [Chunk(job_id, 1, LIVE_FROM, events[:count], Progress())]) == {job_id}
    worker.cancel(job_id)
    assert [each["delta"] for each in stream(tenant, job_id) if "delta" in each] == list("01234")


def test_a_retry_streams_a_new_sequence(server: Server, tenant: Tenant, worker: FakeWorker) -> None:
    job_id = tenant.submit()["id"]
    EventWriter(server, worker, job_id).begin()
    worker.cancel(job_id)
    assert kinds(stream(tenant, job_id)) == [*OPENING, OUTPUT_EVENTS[0], "response.failed"]
    tenant.http.post(f"/v1/responses/{job_id}/retry").raise_for_status()
    worker.complete(job_id)
    assert kinds(stream(tenant, job_id)) == [*OPENING, *OUTPUT_EVENTS, "response.completed"]


def test_the_stream_of_a_deleted_response_ends_with_an_error(server: Server, tenant: Tenant) -> None:
    job_id = tenant.submit()["id"]
    with watching(server, tenant, job_id) as events:
        tenant.http.delete(f"/v1/responses/{job_id}")
        last = events.result(10)[-1]
    assert last["type"] in {"error", "response.failed"}  # the stream may see the cancel that precedes the deletion
    assert_error(tenant.http.get(f"/v1/responses/{job_id}?stream=true"), 404, param="response_id")


def test_foreign_and_invalid_streams_are_refused(tenant: Tenant, other: Tenant) -> None:
    job_id = tenant.submit()["id"]
    assert_error(other.http.get(f"/v1/responses/{job_id}?stream=true"), 404, param="response_id")
    for wrong in ("-1", "x", "1.5", str(2**31)):
        answer = tenant.http.get(f"/v1/responses/{job_id}?stream=true&starting_after={wrong}")
        assert_error(answer, 400, code="invalid_value", param="starting_after")


def test_a_repeated_create_with_the_same_key_gets_the_same_stream(tenant: Tenant, worker: FakeWorker) -> None:
    def create() -> list[Json]:
        answer = tenant.http.post(
            "/v1/responses",
            json={"model": MODEL, "input": "Hello", "stream": True},
            headers={"idempotency-key": "once"},
        )
        return frames(answer.text)

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(create)
        worker.complete(tenant.only_id())
        assert create() == first.result(5)
    assert len(tenant.ids()) == 1


def test_a_retry_during_the_read_of_the_end_does_not_end_the_stream(
    server: Server, tenant: Tenant, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = tenant.submit()["id"]
    job = worker.fail(job_id, Failure(ErrorKind.REJECTED, "The provider refuses.", 400))

    def run_again_first(tx: Any, *whose: str) -> Any:
        tenant.http.post(f"/v1/responses/{job_id}/retry").raise_for_status()
        return get_response_document(tx, *whose)

    monkeypatch.setattr(api.sse, "get_response_document", run_again_first)
    page = look(server.database, job_id, job.api_key_id, LIVE_FROM)
    assert (page.frames, page.is_last) == ((), False)
