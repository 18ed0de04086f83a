"""What streams and background responses meet on a real socket, beyond what the simulator does."""

import json
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import Any

import pytest
from pydantic import SecretStr

from jobs.cancel_reason import AbortReason
from jobs.errors import ErrorKind, Failure
from jobs.job import Answer, Attempt, CallReport
from jobs.model_catalog import Model
from jobs.settings import Transport
from tests.provider.peer import ANSWER, BODY, KEY, SOON, Peer, Pending, Server, client_for, failure, whole
from tests.support.waiting import await_until
from worker.in_flight import InFlightCalls
from worker.provider.call_handle import CallHandle
from worker.provider.client import ProviderClient
from worker.provider.http_exchange import ResponsesApi
from worker.provider.plain import call_plain
from worker.provider.stream import call_stream

MODEL = Model("some/model")
TAKEN = json.dumps({"id": "resp_1/é", "object": "response", "status": "queued", "output": []}).encode()
PATH = b"/v1/responses/resp_1%2F%C3%A9"
BUFFER = 64 * 1024
"""What a thread that waits in `recv` holds for what is to come; a greenlet does not. No read brings more."""


NOTHING: Mapping[str, Any] = {}


class Call:
    """A call that runs beside the test; `accepted` is what it was told to keep, `heard` how long each event was."""

    def __init__(
        self,
        server: Server,
        transport: Transport,
        deadline: float = 10,
        *,
        asks: Mapping[str, Any] = NOTHING,
        **options: Any,
    ) -> None:
        self.accepted: list[str] = []
        self.on_events: list[int] = []
        self.handle = CallHandle()
        client = client_for(server, transport=transport, **options)
        self.pending = Pending(
            lambda: client.call(
                {**BODY, **asks},
                request_id="resp_0:1",
                model=MODEL,
                deadline=timedelta(seconds=deadline),
                handle=self.handle,
                accepted=self.accepted.append,
                on_events=lambda data: self.on_events.append(len(data)),
            )
        )

    def report(self) -> CallReport:
        return self.pending.report()


def events(*frames: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n" + b"".join(frames)


def event(**fields: Any) -> bytes:
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


COMPLETED = event(type="response.completed", response=json.loads(ANSWER))


@pytest.mark.parametrize("transport", [Transport.PLAIN, Transport.STREAM])
def test_what_has_come_counts_however_late_it_is_read(server: Server, transport: Transport) -> None:
    """It may lie there past the deadline where thousands of calls share a process."""
    api, handle = ResponsesApi(server.url, None), CallHandle()
    request = api.call(BODY, request_id="resp_0:1", seconds=10, handle=handle)

    def call() -> CallReport:
        if transport is Transport.PLAIN:
            return call_plain(api, request, MODEL, time.monotonic(), handle)
        return call_stream(api, request, MODEL, time.monotonic(), handle, stall=10)

    pending = Pending(call)
    peer = server.accept()
    peer.read_request()
    frames = [ANSWER[:40], ANSWER[40:]] if transport is Transport.PLAIN else [event(type="response.created"), COMPLETED]
    kind = b"application/json" if transport is Transport.PLAIN else b"text/event-stream"
    peer.send(
        b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ntransfer-encoding: chunked\r\n\r\n" % kind
        + b"".join(b"%x\r\n%b\r\n" % (len(frame), frame) for frame in frames)
        + b"0\r\n\r\n"
    )
    assert isinstance(pending.report().result, Answer)


class TestStream:
    def answer(self, server: Server, data: bytes, *, hang_up: bool = True, **options: Any) -> CallReport:
        call = Call(server, Transport.STREAM, **options)
        peer = server.accept()
        _, headers, sent = peer.read_request()
        assert json.loads(sent)["stream"] is True
        assert "text/event-stream" in headers["accept"]
        peer.send(data)
        if hang_up:
            peer.sock.close()
        return call.report()

    def test_events_without_names_and_a_cost_that_comes_late(self, server: Server) -> None:
        late = event(meta={"usage": {"usd_spent": 0.25}})
        report = self.answer(server, events(event(type="response.created"), COMPLETED, late, b"data: [DONE]\n\n"))
        assert isinstance(report.result, Answer)
        assert report.cost is not None
        assert report.cost.microusd == 250_000
        assert report.raw is not None
        assert json.loads(report.raw)["type"] == "response.completed"

    def test_whole_though_its_terminator_is_missing(self, server: Server) -> None:
        assert isinstance(self.answer(server, events(COMPLETED.rstrip())).result, Answer)

    def test_json_although_a_stream_was_asked_for(self, server: Server) -> None:
        assert isinstance(self.answer(server, whole()).result, Answer)

    @pytest.mark.parametrize("content_type", [b"application/json", b"text/plain", b"text/html"])
    def test_events_whatever_their_content_type_says(self, server: Server, content_type: bytes) -> None:
        answer = events(b"\n: hello\n\n", COMPLETED).replace(b"text/event-stream", content_type)
        assert isinstance(self.answer(server, answer).result, Answer)

    def test_json_that_is_called_events(self, server: Server) -> None:
        answer = whole(content_type="text/event-stream")
        assert isinstance(self.answer(server, answer).result, Answer)

    @pytest.mark.parametrize("is_clean", [True, False])
    def test_after_whole_items_only_a_connection_that_broke_is_an_interrupted_call(
        self, server: Server, is_clean: bool
    ) -> None:
        frames = event(type="response.output_item.done", output_index=0, item=json.loads(ANSWER)["output"][0])
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        chunk = b"%x\r\n%b\r\n" % (len(frames), frames)
        report = self.answer(server, head + chunk + (b"0\r\n\r\n" if is_clean else b""))
        assert isinstance(report.result, Answer) is is_clean
        assert is_clean or failure(report).kind is ErrorKind.INTERRUPTED

    @pytest.mark.parametrize("frames", [b"", event(type="response.created"), COMPLETED[:-40], b"data: {{\n\n"])
    def test_no_last_event(self, server: Server, frames: bytes) -> None:
        report = self.answer(server, events(frames))
        assert failure(report).kind is ErrorKind.INTERRUPTED
        assert report.http_status == 200

    def test_a_gateways_error_without_a_type(self, server: Server) -> None:
        report = self.answer(server, events(event(error={"message": "No.", "code": "invalid_prompt"})))
        assert failure(report).kind is ErrorKind.ANSWER_REFUSED

    def test_an_event_that_is_too_large(self, server: Server) -> None:
        frames = events(event(type="response.completed", text="x" * 5000))
        report = self.answer(server, frames, max_answer_bytes=1000)
        assert failure(report).kind is ErrorKind.MALFORMED_ANSWER

    def test_a_slow_drip_ends_with_the_deadline(self, server: Server) -> None:
        report = self.answer(server, events(event(type="response.created")), hang_up=False, deadline=0.4)
        assert failure(report).kind is ErrorKind.CALL_DEADLINE

    @pytest.mark.parametrize("tls", [False, True])
    def test_no_more_than_the_last_piece_is_held_while_more_is_awaited(self, tls: bool) -> None:
        """That one h11 and httpx hold, once each."""
        with Server(tls=tls) as server:
            call = Call(server, Transport.STREAM)
            peer = server.accept()
            peer.read_request()
            large = event(type="response.created", response={"instructions": "x" * 64_000})
            peer.send(events(event(type="response.created"))[:-1])  # nobody waits for more until this one has ended
            tracemalloc.start()
            try:
                item = {"type": "message", "id": "msg_1", "role": "assistant", "content": []}
                begun = event(type="response.output_item.added", output_index=0, item=item)
                peer.send(b"\n" + large * 10 + begun)
                await_until(lambda: call.on_events, 5, "it was not read")
                await_until(lambda: tracemalloc.get_traced_memory()[0] < 3 * BUFFER + 20_000, 5, "it is held")
            finally:
                tracemalloc.stop()
            peer.send(COMPLETED).sock.close()
            assert isinstance(call.report().result, Answer)


def kept(handle: CallHandle, done: threading.Event) -> None:
    """Keep time for `line` as a worker does."""
    calls = InFlightCalls(on_end=lambda: None)
    attempt: Any = Attempt.__new__(Attempt)
    object.__setattr__(attempt, "job_id", "resp_0")
    object.__setattr__(attempt, "number", 1)
    calls.begin(attempt, handle, timedelta(minutes=1))
    while not done.wait(0.02):
        calls.abort_overdue()


class TestSilence:
    @pytest.fixture
    def call(self, server: Server) -> Iterator[Call]:
        call = Call(server, Transport.STREAM, stall=timedelta(seconds=0.3))
        done = threading.Event()
        keeper = threading.Thread(target=kept, args=(call.handle, done))
        keeper.start()
        yield call
        done.set()
        keeper.join()

    @pytest.mark.parametrize("last", [event(type="response.output_text.delta", delta="He"), b'data: {"type": "re'])
    def test_amid_a_text_or_an_event_is_a_stall(self, server: Server, call: Call, last: bytes) -> None:
        peer = server.accept()
        peer.read_request()
        peer.send(events(event(type="response.created"), last))
        assert failure(call.report()).kind is ErrorKind.INTERRUPTED
        assert call.handle.aborted is AbortReason.STALLED
        assert peer.sees_the_end()

    def test_before_and_between_texts_is_none(self, server: Server, call: Call) -> None:
        peer = server.accept()
        peer.read_request()
        peer.send(events(event(type="response.created")))
        time.sleep(0.6)  # the silence itself is what is tested
        assert call.handle.aborted is None
        peer.send(COMPLETED).sock.close()
        assert isinstance(call.report().result, Answer)

    def test_after_the_last_event_does_not_keep_the_answer_back(self, server: Server, call: Call) -> None:
        peer = server.accept()
        peer.read_request()
        peer.send(events(COMPLETED))
        assert isinstance(call.report().result, Answer)


def test_the_base_urls_query_is_kept_on_every_path(server: Server) -> None:
    key = SecretStr(KEY)
    url = f"{server.url}?api-version=2024-10-01&tenant=a%26b"
    client = ProviderClient(url, key, transport=Transport.BACKGROUND)
    soon = timedelta(seconds=10)

    def bought() -> CallReport:
        return client.call(
            dict(BODY), request_id="resp_0:1", model=MODEL, deadline=soon, handle=CallHandle(), accepted=lambda _: None
        )

    def cancelled() -> CallReport:
        return client.cancel("resp_1/é", MODEL) or CallReport(Failure(ErrorKind.LOST, "not cancelled"))

    def deleted() -> CallReport:
        assert client.delete("resp_1/é")
        return CallReport(Failure(ErrorKind.LOST, "deleted"))

    calls: list[tuple[Callable[[], CallReport], bytes]] = [
        (bought, b"POST /v1/responses"),
        (lambda: client.resume("resp_1/é", model=MODEL, deadline=soon, handle=CallHandle()), b"GET %b" % PATH),
        (cancelled, b"POST %b/cancel" % PATH),
        (deleted, b"DELETE %b" % PATH),
    ]
    for call, path in calls:
        pending = Pending(call)
        peer = server.accept()
        assert peer.read_request()[0] == b"%b?api-version=2024-10-01&tenant=a%%26b HTTP/1.1" % path
        peer.send(whole())
        pending.report()


class TestBackground:
    def taken(self, server: Server, **options: Any) -> Call:
        call = Call(server, Transport.BACKGROUND, **options)
        peer = server.accept()
        first, _, sent = peer.read_request()
        assert first == b"POST /v1/responses HTTP/1.1"
        assert {name: json.loads(sent)[name] for name in ("background", "store", "stream")} == {
            "background": True,
            "store": True,
            "stream": False,
        }
        peer.send(whole(TAKEN, openai_poll_after_ms=50))
        return call

    def asked(self, server: Server, answer: bytes, verb: bytes = b"GET %b HTTP/1.1") -> Peer:
        peer = server.accept()
        first, headers, _ = peer.read_request()
        assert first == verb % PATH
        assert headers["authorization"].startswith("Bearer ")
        return peer.send(answer)

    def test_the_id_is_kept_before_anything_else(self, server: Server) -> None:
        call = self.taken(server)
        peer = server.accept()
        assert call.accepted == ["resp_1/é"]
        peer.read_request()
        peer.send(whole(x_aimlapi_usd_spent="0.5"))
        report = call.report()
        assert isinstance(report.result, Answer)
        assert report.provider_response_id == "resp_1/é"
        assert report.cost is not None
        assert report.cost.microusd == 500_000

    def test_that_it_could_not_be_asked_for_is_no_failure_of_the_call(self, server: Server) -> None:
        call = self.taken(server)
        for trouble in (
            whole(b"busy", "503 Service Unavailable", retry_after_ms=50),
            whole(b"slow", "429 Too Many Requests", retry_after_ms=50),
            whole(b"who?", "401 Unauthorized", retry_after_ms=50),
            whole(b"<html>", "200 OK", retry_after_ms=50),
            whole(b"none", "404 Not Found", retry_after_ms=50),
        ):
            self.asked(server, trouble)
        self.asked(server, b"").reset()
        self.asked(server, whole())
        assert isinstance(call.report().result, Answer)

    def test_gone_for_good(self, server: Server) -> None:
        call = self.taken(server)
        for _ in range(3):
            self.asked(server, whole(b"none", "404 Not Found", retry_after_ms=50))
        assert failure(call.report()).kind is ErrorKind.LOST

    def test_a_provider_that_answers_in_whole_has_answered(self, server: Server) -> None:
        call = Call(server, Transport.BACKGROUND)
        peer = server.accept()
        peer.read_request()
        peer.send(whole())
        assert isinstance(call.report().result, Answer)
        assert call.accepted == []

    @pytest.mark.parametrize("frames", [COMPLETED, event(type="response.created", response=json.loads(TAKEN))])
    def test_one_that_answers_with_events_is_bought_once(self, server: Server, frames: bytes) -> None:
        call = Call(server, Transport.BACKGROUND)
        peer = server.accept()
        peer.read_request()
        peer.send(events(frames)).sock.close()
        if frames is not COMPLETED:
            self.asked(server, events(COMPLETED)).sock.close()
            assert call.accepted == ["resp_1/é"]
        assert isinstance(call.report().result, Answer)

    def test_its_id_is_kept_where_it_may_have_been_stored_against_the_clients_will(self, server: Server) -> None:
        """[18.9]"""
        call = Call(server, Transport.BACKGROUND, asks={"store": False})
        peer = server.accept()
        peer.read_request()
        peer.send(whole())
        assert isinstance(call.report().result, Answer)
        assert call.accepted == ["resp_1"]

    def test_its_deadline_ends_it_there_too(self, server: Server) -> None:
        call = self.taken(server, deadline=0.5)
        server.accept().read_request()  # and never answered
        self.asked(server, whole(TAKEN.replace(b"queued", b"cancelled")), b"POST %b/cancel HTTP/1.1")
        assert failure(call.report()).kind is ErrorKind.CALL_DEADLINE

    def test_an_answer_that_was_made_before_the_cancel_counts(self, server: Server) -> None:
        call = self.taken(server)
        peer = server.accept()
        peer.read_request()
        assert call.handle.abort(AbortReason.CANCELLED)
        assert peer.sees_the_end()
        self.asked(server, whole(), b"POST %b/cancel HTTP/1.1")
        assert isinstance(call.report().result, Answer)

    @pytest.mark.parametrize("reason", [AbortReason.RELEASED, AbortReason.SUPERSEDED])
    def test_what_another_goes_on_with_is_left_running(self, server: Server, reason: AbortReason) -> None:
        call = self.taken(server)
        server.accept().read_request()
        call.handle.abort(reason)
        report = call.report()
        assert report.provider_response_id == "resp_1/é"
        assert isinstance(report.result, Failure)
        assert not server.was_called()

    def test_ended_while_it_waits_to_ask_again(self, server: Server) -> None:
        call = self.taken(server)
        self.asked(server, whole(TAKEN, openai_poll_after_ms=30_000))
        await_until(lambda: not server.was_called(within=0.05), 5, "it did not come to pass")
        began = time.monotonic()
        call.handle.abort(AbortReason.RELEASED)
        call.report()
        assert time.monotonic() - began < SOON

    def test_ended_while_it_is_bought_the_id_is_still_heard(self, server: Server) -> None:
        call = Call(server, Transport.BACKGROUND)
        peer = server.accept()
        peer.read_request()
        await_until(lambda: call.handle.sent, 5, "it did not come to pass")
        assert call.handle.abort(AbortReason.CANCELLED)
        peer.send(whole(TAKEN))
        self.asked(server, whole(TAKEN.replace(b"queued", b"cancelled")), b"POST %b/cancel HTTP/1.1")
        assert failure(call.report()).kind is ErrorKind.INTERRUPTED
        assert call.accepted == ["resp_1/é"]

    def test_resumed_by_id_nothing_is_bought(self, server: Server) -> None:
        client = client_for(server)
        handle = CallHandle()
        pending = Pending(lambda: client.resume("resp_1/é", model=MODEL, deadline=timedelta(seconds=5), handle=handle))
        self.asked(server, whole())
        assert isinstance(pending.report().result, Answer)
