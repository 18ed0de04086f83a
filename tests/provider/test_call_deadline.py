"""The deadline of a call, which the client itself keeps, although the worker's check is more precise."""

import time
from contextlib import suppress

from jobs.errors import ErrorKind
from jobs.job import Answer
from jobs.model_catalog import Model
from tests.provider.peer import ANSWER, BODY, SOON, Pending, Server, client_for, failure, head, start
from worker.provider.call_handle import CallHandle
from worker.provider.http_exchange import ResponsesApi
from worker.provider.plain import call_plain


def seconds_until_deadline(pending: Pending, began: float) -> float:
    report = pending.report()
    assert failure(report).kind is ErrorKind.CALL_DEADLINE
    return time.monotonic() - began


def test_silence(server: Server) -> None:
    began = time.monotonic()
    pending = start(client_for(server), CallHandle(), deadline=0.4)
    server.accept().read_request()
    assert 0.4 <= seconds_until_deadline(pending, began) < 0.4 + SOON


def test_silence_in_the_body(server: Server) -> None:
    began = time.monotonic()
    pending = start(client_for(server), CallHandle(), deadline=0.4)
    peer = server.accept()
    peer.read_request()
    peer.send(head(content_length=len(ANSWER)) + ANSWER[:100])
    assert 0.4 <= seconds_until_deadline(pending, began) < 0.4 + SOON


def test_a_slow_drip(server: Server) -> None:
    """Every read returns something, so that no read times out."""
    began = time.monotonic()
    pending = start(client_for(server), CallHandle(), deadline=0.4)
    peer = server.accept()
    peer.read_request()
    peer.send(head(connection="close"))
    with suppress(OSError):
        for _ in range(200):
            peer.send(b" ")
            time.sleep(0.02)
    assert 0.4 <= seconds_until_deadline(pending, began) < 0.4 + SOON


def test_in_a_body_the_rest_of_the_deadline_applies(server: Server) -> None:
    api, handle, began = ResponsesApi(server.url, None), CallHandle(), time.monotonic()
    request = api.call(BODY, request_id="resp_0:1", seconds=60, handle=handle)
    pending = Pending(lambda: call_plain(api, request, Model("some/model"), began + 0.4, handle))
    peer = server.accept()
    peer.read_request()
    peer.send(head(content_length=len(ANSWER)) + ANSWER[:100])
    assert 0.4 <= seconds_until_deadline(pending, began) < 0.4 + SOON


def test_the_last_byte_may_come_late(server: Server) -> None:
    """An answer that is whole when the deadline is noticed counts."""
    pending = start(client_for(server), CallHandle(), deadline=0.3)
    peer = server.accept()
    peer.read_request()
    peer.send(head(connection="close") + ANSWER)
    assert isinstance(pending.report().result, Answer)
