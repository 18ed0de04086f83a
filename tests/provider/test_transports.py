"""Streams on a real socket, in cases that the simulator does not produce."""

import json
import threading
import time
import tracemalloc
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from jobs.cancel_reason import AbortReason
from jobs.errors import ErrorKind
from jobs.job import Answer, Attempt, CallReport
from jobs.settings import Transport
from tests.provider.peer import ANSWER, BODY, Pending, Server, failure, whole
from tests.provider.transport_call import COMPLETED, MODEL, Call, event, events
from tests.support.waiting import await_until
from worker.in_flight import InFlightCalls
from worker.provider.call_handle import CallHandle
from worker.provider.http_exchange import ResponsesApi
from worker.provider.plain import call_plain
from worker.provider.stream import call_stream

BUFFER = 64 * 1024
"""Size of the buffer that a thread in `recv` holds for its next read, and a greenlet does not."""


@pytest.mark.parametrize("transport", [Transport.PLAIN, Transport.STREAM])
def test_received_bytes_count_however_late_they_are_read(server: Server, transport: Transport) -> None:
    """They may wait beyond the deadline when thousands of calls share a process."""
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

    def test_events_without_names_and_a_late_cost(self, server: Server) -> None:
        late = event(meta={"usage": {"usd_spent": 0.25}})
        report = self.answer(server, events(event(type="response.created"), COMPLETED, late, b"data: [DONE]\n\n"))
        assert isinstance(report.result, Answer)
        assert report.cost is not None
        assert report.cost.microusd == 250_000
        assert report.raw is not None
        assert json.loads(report.raw)["type"] == "response.completed"

    def test_whole_although_its_terminator_is_missing(self, server: Server) -> None:
        assert isinstance(self.answer(server, events(COMPLETED.rstrip())).result, Answer)

    def test_json_although_a_stream_was_requested(self, server: Server) -> None:
        assert isinstance(self.answer(server, whole()).result, Answer)

    @pytest.mark.parametrize("content_type", [b"application/json", b"text/plain", b"text/html"])
    def test_events_of_any_content_type(self, server: Server, content_type: bytes) -> None:
        answer = events(b"\n: hello\n\n", COMPLETED).replace(b"text/event-stream", content_type)
        assert isinstance(self.answer(server, answer).result, Answer)

    def test_json_with_the_content_type_of_events(self, server: Server) -> None:
        answer = whole(content_type="text/event-stream")
        assert isinstance(self.answer(server, answer).result, Answer)

    @pytest.mark.parametrize("is_clean", [True, False])
    def test_after_whole_items_only_a_broken_connection_interrupts_the_call(
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
    def test_only_the_last_piece_is_held_while_more_is_awaited(self, tls: bool) -> None:
        """h11 and httpx each hold that piece once."""
        with Server(tls=tls) as server:
            call = Call(server, Transport.STREAM)
            peer = server.accept()
            peer.read_request()
            large = event(type="response.created", response={"instructions": "x" * 64_000})
            peer.send(events(event(type="response.created"))[:-1])  # the client awaits more only after this one
            tracemalloc.start()
            try:
                item = {"type": "message", "id": "msg_1", "role": "assistant", "content": []}
                begun = event(type="response.output_item.added", output_index=0, item=item)
                peer.send(b"\n" + large * 10 + begun)
                await_until(lambda: call.batches, 5, "it was not read")
                await_until(lambda: tracemalloc.get_traced_memory()[0] < 3 * BUFFER + 20_000, 5, "it is still held")
            finally:
                tracemalloc.stop()
            peer.send(COMPLETED).sock.close()
            assert isinstance(call.report().result, Answer)


def check_timeouts(handle: CallHandle, done: threading.Event) -> None:
    """Check the timeouts of `handle` as a worker does."""
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
        checker = threading.Thread(target=check_timeouts, args=(call.handle, done))
        checker.start()
        yield call
        done.set()
        checker.join()

    @pytest.mark.parametrize("last", [event(type="response.output_text.delta", delta="He"), b'data: {"type": "re'])
    def test_in_a_text_or_an_event_is_a_stall(self, server: Server, call: Call, last: bytes) -> None:
        peer = server.accept()
        peer.read_request()
        peer.send(events(event(type="response.created"), last))
        assert failure(call.report()).kind is ErrorKind.INTERRUPTED
        assert call.handle.aborted is AbortReason.STALLED
        assert peer.sees_the_end()

    def test_before_and_between_texts_is_no_stall(self, server: Server, call: Call) -> None:
        peer = server.accept()
        peer.read_request()
        peer.send(events(event(type="response.created")))
        time.sleep(0.6)  # the silence itself is what is tested
        assert call.handle.aborted is None
        peer.send(COMPLETED).sock.close()
        assert isinstance(call.report().result, Answer)

    def test_after_the_last_event_does_not_delay_the_answer(self, server: Server, call: Call) -> None:
        peer = server.accept()
        peer.read_request()
        peer.send(events(COMPLETED))
        assert isinstance(call.report().result, Answer)
