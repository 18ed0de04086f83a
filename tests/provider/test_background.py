"""Background responses on a real socket, in cases that the simulator does not produce."""

import json
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from pydantic import SecretStr

from jobs.cancel_reason import AbortReason
from jobs.errors import ErrorKind, Failure
from jobs.job import Answer, CallReport
from jobs.settings import Transport
from tests.provider.peer import BODY, KEY, SOON, Peer, Pending, Server, client_for, failure, whole
from tests.provider.transport_call import COMPLETED, MODEL, Call, event, events
from tests.support.waiting import await_until
from worker.provider.call_handle import CallHandle
from worker.provider.client import ProviderClient

QUEUED = json.dumps({"id": "resp_1/é", "object": "response", "status": "queued", "output": []}).encode()
PATH = b"/v1/responses/resp_1%2F%C3%A9"


def test_the_base_urls_query_is_kept_on_every_path(server: Server) -> None:
    key = SecretStr(KEY)
    url = f"{server.url}?api-version=2024-10-01&tenant=a%26b"
    client = ProviderClient(url, key, transport=Transport.BACKGROUND)
    soon = timedelta(seconds=10)

    def created() -> CallReport:
        return client.call(
            dict(BODY), request_id="resp_0:1", model=MODEL, deadline=soon, handle=CallHandle(), accepted=lambda _: None
        )

    def cancelled() -> CallReport:
        return client.cancel("resp_1/é", MODEL) or CallReport(Failure(ErrorKind.LOST, "not cancelled"))

    def deleted() -> CallReport:
        assert client.delete("resp_1/é")
        return CallReport(Failure(ErrorKind.LOST, "deleted"))

    calls: list[tuple[Callable[[], CallReport], bytes]] = [
        (created, b"POST /v1/responses"),
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
    def start(self, server: Server, **options: Any) -> Call:
        call = Call(server, Transport.BACKGROUND, **options)
        peer = server.accept()
        first, _, sent = peer.read_request()
        assert first == b"POST /v1/responses HTTP/1.1"
        assert {name: json.loads(sent)[name] for name in ("background", "store", "stream")} == {
            "background": True,
            "store": True,
            "stream": False,
        }
        peer.send(whole(QUEUED, openai_poll_after_ms=50))
        return call

    def answer_next(self, server: Server, answer: bytes, verb: bytes = b"GET %b HTTP/1.1") -> Peer:
        peer = server.accept()
        first, headers, _ = peer.read_request()
        assert first == verb % PATH
        assert headers["authorization"].startswith("Bearer ")
        return peer.send(answer)

    def test_the_id_is_reported_before_anything_else(self, server: Server) -> None:
        call = self.start(server)
        peer = server.accept()
        assert call.accepted == ["resp_1/é"]
        peer.read_request()
        peer.send(whole(x_aimlapi_usd_spent="0.5"))
        report = call.report()
        assert isinstance(report.result, Answer)
        assert report.provider_response_id == "resp_1/é"
        assert report.cost is not None
        assert report.cost.microusd == 500_000

    def test_failed_polls_do_not_fail_the_call(self, server: Server) -> None:
        call = self.start(server)
        for error in (
            whole(b"busy", "503 Service Unavailable", retry_after_ms=50),
            whole(b"slow", "429 Too Many Requests", retry_after_ms=50),
            whole(b"who?", "401 Unauthorized", retry_after_ms=50),
            whole(b"<html>", "200 OK", retry_after_ms=50),
            whole(b"none", "404 Not Found", retry_after_ms=50),
        ):
            self.answer_next(server, error)
        self.answer_next(server, b"").reset()
        self.answer_next(server, whole())
        assert isinstance(call.report().result, Answer)

    def test_gone_for_good(self, server: Server) -> None:
        call = self.start(server)
        for _ in range(3):
            self.answer_next(server, whole(b"none", "404 Not Found", retry_after_ms=50))
        assert failure(call.report()).kind is ErrorKind.LOST

    def test_a_provider_may_answer_at_once(self, server: Server) -> None:
        call = Call(server, Transport.BACKGROUND)
        peer = server.accept()
        peer.read_request()
        peer.send(whole())
        assert isinstance(call.report().result, Answer)
        assert call.accepted == []

    @pytest.mark.parametrize("frames", [COMPLETED, event(type="response.created", response=json.loads(QUEUED))])
    def test_an_answer_in_events_is_created_once(self, server: Server, frames: bytes) -> None:
        call = Call(server, Transport.BACKGROUND)
        peer = server.accept()
        peer.read_request()
        peer.send(events(frames)).sock.close()
        if frames is not COMPLETED:
            self.answer_next(server, events(COMPLETED)).sock.close()
            assert call.accepted == ["resp_1/é"]
        assert isinstance(call.report().result, Answer)

    def test_the_id_of_a_response_that_must_not_be_stored_is_reported(self, server: Server) -> None:
        """[18.9]"""
        call = Call(server, Transport.BACKGROUND, asks={"store": False})
        peer = server.accept()
        peer.read_request()
        peer.send(whole())
        assert isinstance(call.report().result, Answer)
        assert call.accepted == ["resp_1"]

    def test_the_deadline_cancels_it_at_the_provider(self, server: Server) -> None:
        call = self.start(server, deadline=0.5)
        server.accept().read_request()  # not answered
        self.answer_next(server, whole(QUEUED.replace(b"queued", b"cancelled")), b"POST %b/cancel HTTP/1.1")
        assert failure(call.report()).kind is ErrorKind.CALL_DEADLINE

    def test_an_answer_that_was_made_before_the_cancel_counts(self, server: Server) -> None:
        call = self.start(server)
        peer = server.accept()
        peer.read_request()
        assert call.handle.abort(AbortReason.CANCELLED)
        assert peer.sees_the_end()
        self.answer_next(server, whole(), b"POST %b/cancel HTTP/1.1")
        assert isinstance(call.report().result, Answer)

    @pytest.mark.parametrize("reason", [AbortReason.RELEASED, AbortReason.SUPERSEDED])
    def test_a_response_is_not_cancelled_if_another_continues_it(self, server: Server, reason: AbortReason) -> None:
        call = self.start(server)
        server.accept().read_request()
        call.handle.abort(reason)
        report = call.report()
        assert report.provider_response_id == "resp_1/é"
        assert isinstance(report.result, Failure)
        assert not server.was_called()

    def test_aborted_between_two_polls(self, server: Server) -> None:
        call = self.start(server)
        self.answer_next(server, whole(QUEUED, openai_poll_after_ms=30_000))
        await_until(lambda: not server.was_called(within=0.05), 5, "it did not happen in time")
        began = time.monotonic()
        call.handle.abort(AbortReason.RELEASED)
        call.report()
        assert time.monotonic() - began < SOON

    def test_aborted_while_it_is_created_the_id_is_still_reported(self, server: Server) -> None:
        call = Call(server, Transport.BACKGROUND)
        peer = server.accept()
        peer.read_request()
        await_until(lambda: call.handle.sent, 5, "it did not happen in time")
        assert call.handle.abort(AbortReason.CANCELLED)
        peer.send(whole(QUEUED))
        self.answer_next(server, whole(QUEUED.replace(b"queued", b"cancelled")), b"POST %b/cancel HTTP/1.1")
        assert failure(call.report()).kind is ErrorKind.INTERRUPTED
        assert call.accepted == ["resp_1/é"]

    def test_resuming_by_id_creates_nothing(self, server: Server) -> None:
        client = client_for(server)
        handle = CallHandle()
        pending = Pending(lambda: client.resume("resp_1/é", model=MODEL, deadline=timedelta(seconds=5), handle=handle))
        self.answer_next(server, whole())
        assert isinstance(pending.report().result, Answer)
