"""A call can be aborted at any moment, and ends at once. `test_gevent.py` repeats these tests with greenlets."""

import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import gevent.monkey
import psutil
import pytest

from jobs.cancel_reason import AbortReason
from jobs.errors import ErrorKind, Failure
from jobs.job import Answer
from tests.provider.peer import ANSWER, BODY, SOON, Server, call, client_for, failure, head, start, whole
from tests.support.waiting import await_until
from worker.provider.call_handle import CallHandle

LARGE_BODY = {**BODY, "input": "x" * 32 * 1024 * 1024}


@pytest.fixture(params=["http", "https"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with Server(tls=request.param == "https") as listening:
        yield listening


def test_before_the_call_no_connection_is_made(server: Server) -> None:
    handle = CallHandle()
    assert handle.abort(AbortReason.CANCELLED)
    report = call(client_for(server), handle)
    assert failure(report).kind is ErrorKind.UNREACHABLE
    assert handle.never_sent
    assert not server.was_called()


@pytest.mark.skipif(sys.platform != "linux", reason="fills the backlog the way Linux counts it")
def test_while_connecting_nothing_is_sent() -> None:
    with Server(backlog=0) as server, socket.create_connection(("127.0.0.1", server.port)):
        handle = CallHandle()
        pending = start(client_for(server), handle)
        await_until(lambda: _connecting_to(server.port), 5, "it did not happen in time")
        assert handle.abort(AbortReason.CANCELLED)
        server.accept_bare()  # room for one more: the kernel's next SYN is answered
        report = pending.report()
        assert failure(report).kind is ErrorKind.UNREACHABLE
        late = server.accept_bare()
        assert late.sees_the_end()
        assert late.received == b""


def _connecting_to(port: int) -> bool:
    found = psutil.Process().net_connections("tcp")
    return any(each.status == psutil.CONN_SYN_SENT and each.raddr and each.raddr.port == port for each in found)


def test_in_the_tls_handshake() -> None:
    with Server(tls=True) as server:
        handle = CallHandle()
        pending = start(client_for(server), handle)
        peer = server.accept_bare()
        peer.read_until(lambda data: len(data) > 100)  # the client's hello: it now waits for the server's
        assert handle.abort(AbortReason.CANCELLED)
        assert peer.sees_the_end()
        assert failure(pending.report(SOON)).kind is ErrorKind.UNREACHABLE
        assert handle.never_sent


def test_while_the_request_is_sent(server: Server) -> None:
    handle = CallHandle()
    pending = start(client_for(server), handle, LARGE_BODY)
    peer = server.accept()
    peer.read_until(lambda data: len(data) > 100_000)  # and no further, so that the client blocks in its send
    assert handle.abort(AbortReason.CANCELLED)
    report = pending.report(SOON)
    assert failure(report).kind is ErrorKind.INTERRUPTED
    assert not handle.never_sent
    assert peer.sees_the_end(within=5)
    assert len(peer.received) < 32 * 1024 * 1024


def test_while_waiting_for_the_answer(server: Server) -> None:
    handle = CallHandle()
    pending = start(client_for(server), handle)
    peer = server.accept()
    peer.read_request()
    assert handle.abort(AbortReason.CANCELLED)
    assert peer.sees_the_end()
    report = pending.report(SOON)
    assert failure(report).kind is ErrorKind.INTERRUPTED
    assert "cancelled" in failure(report).message
    assert handle.sent
    assert handle.aborted is AbortReason.CANCELLED


def test_in_the_headers(server: Server) -> None:
    handle = CallHandle()
    pending = start(client_for(server), handle)
    peer = server.accept()
    peer.read_request()
    peer.send(b"HTTP/1.1 200 OK\r\ncontent-type: applica")
    assert handle.abort(AbortReason.EXPIRED)
    assert peer.sees_the_end()
    assert failure(pending.report(SOON)).kind is ErrorKind.INTERRUPTED


@pytest.mark.parametrize("framing", [{"content_length": len(ANSWER)}, {"connection": "close"}])
def test_in_the_body(server: Server, framing: dict[str, Any]) -> None:
    handle = CallHandle()
    pending = start(client_for(server), handle)
    peer = server.accept()
    peer.read_request()
    peer.send(head(x_inference_id="inf_1", **framing) + ANSWER[:40])
    await_until(peer.all_has_arrived, 5, "it did not happen in time")
    assert handle.abort(AbortReason.RELEASED)
    assert peer.sees_the_end()
    report = pending.report(SOON)
    assert failure(report).kind is ErrorKind.INTERRUPTED
    assert failure(report).http_status == 200
    assert report.provider_request_id == "inf_1"
    assert report.raw == ANSWER[:40]


def test_at_the_deadline_the_failure_is_call_deadline(server: Server) -> None:
    handle = CallHandle()
    pending = start(client_for(server), handle)
    server.accept().read_request()
    assert handle.abort(AbortReason.CALL_DEADLINE)
    assert failure(pending.report(SOON)).kind is ErrorKind.CALL_DEADLINE


def test_an_answer_received_whole_is_kept() -> None:
    """It was billed. Its terminator is missing, so the client still waits."""
    with Server() as server:
        handle = CallHandle()
        pending = start(client_for(server), handle)
        peer = server.accept()
        peer.read_request()
        peer.send(head(transfer_encoding="chunked") + b"%x\r\n%b\r\n" % (len(ANSWER), ANSWER))
        await_until(peer.all_has_arrived, 5, "it did not happen in time")
        assert handle.abort(AbortReason.CANCELLED)
        report = pending.report(SOON)
        assert isinstance(report.result, Answer)
        assert report.usage is not None
        assert report.usage.total_tokens == 8


def test_after_the_end_is_too_late(server: Server) -> None:
    handle = CallHandle()
    pending = start(client_for(server), handle)
    peer = server.accept()
    peer.read_request()
    peer.send(whole())
    assert isinstance(pending.report().result, Answer)
    assert not handle.abort(AbortReason.CANCELLED)
    assert handle.aborted is None


def test_only_the_first_reason_counts(server: Server) -> None:
    handle = CallHandle()
    pending = start(client_for(server), handle)
    server.accept().read_request()
    assert handle.abort(AbortReason.EXPIRED)
    assert not handle.abort(AbortReason.CANCELLED)
    assert handle.aborted is AbortReason.EXPIRED
    pending.report(SOON)
    assert not handle.abort(AbortReason.RELEASED)


def test_other_calls_continue(server: Server) -> None:
    client = client_for(server)
    handles = [CallHandle() for _ in range(5)]
    pending = []
    for handle in handles:
        pending.append((start(client, handle), server.accept()))
        pending[-1][1].read_request()
    handles[2].abort(AbortReason.CANCELLED)
    assert pending[2][1].sees_the_end()
    for number, (waiting, peer) in enumerate(pending):
        if number != 2:
            peer.send(whole())
        assert isinstance(waiting.report().result, Failure if number == 2 else Answer)


def test_of_an_ended_call_leaves_the_next_one_with_its_file_number(server: Server) -> None:
    client = client_for(server)
    first, second = CallHandle(), CallHandle()
    pending = start(client, first)
    peer = server.accept()
    peer.read_request()
    peer.send(whole())
    pending.report()
    pending = start(client, second)
    peer = server.accept()
    peer.read_request()
    first.abort(AbortReason.CANCELLED)
    peer.send(whole())
    assert isinstance(pending.report().result, Answer)


def _from_another_thread(handle: CallHandle) -> None:
    """Abort from a native thread, even if threads are greenlets."""
    if gevent.monkey.is_module_patched("threading"):
        assert gevent.get_hub().threadpool.apply(handle.abort, (AbortReason.CANCELLED,))
    else:
        assert handle.abort(AbortReason.CANCELLED)


def _from_a_signal_handler(handle: CallHandle) -> None:
    before = signal.signal(signal.SIGUSR1, lambda *_: handle.abort(AbortReason.CANCELLED))
    try:
        os.kill(os.getpid(), signal.SIGUSR1)
        await_until(lambda: handle.aborted is not None, 5, "it did not happen in time")
    finally:
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("abort", [_from_another_thread, _from_a_signal_handler])
def test_from_another_thread_or_a_signal_handler(server: Server, abort: Callable[[CallHandle], None]) -> None:
    handle = CallHandle()
    pending = start(client_for(server), handle)
    peer = server.accept()
    peer.read_request()
    abort(handle)
    assert peer.sees_the_end()
    assert failure(pending.report(SOON)).kind is ErrorKind.INTERRUPTED


def test_no_file_is_left_open(server: Server) -> None:
    client = client_for(server)
    counts = []
    for _ in range(3):
        handle = CallHandle()
        pending = start(client, handle)
        peer = server.accept()
        peer.read_request()
        handle.abort(AbortReason.CANCELLED)
        pending.report(SOON)
        peer.sock.close()
        counts.append(psutil.Process().num_fds())
    assert counts[-1] <= counts[0]
