"""Connections are limited in time and number: slow heads, slow bodies, slow readers, pipelining, floods."""

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
import pytest

from tests.api.connections import CREATE, HEAD_LIMIT, HEALTH, KB, MB, RawConnection, head, limited_memory
from tests.api.world import MODEL, FakeWorker, Server, Tenant, a_tenant, serve, settings_for
from tests.support.waiting import await_until

pytestmark = pytest.mark.one_database

LIMIT = 0.6
"""Seconds that `strict` allows for a head, between two pieces of a body, and for a reader."""


@pytest.fixture(scope="module")
def strict(server: Server) -> Iterator[Server]:
    """A server with short timeouts for connections."""
    with serving(server, head_timeout_seconds=LIMIT, body_timeout_seconds=LIMIT, write_timeout_seconds=LIMIT) as strict:
        yield strict


@contextmanager
def serving(server: Server, **overrides: Any) -> Iterator[Server]:
    with serve(settings_for(server.settings.database, server.settings.redis, **overrides)) as other:
        yield other


def steadily(piece: bytes) -> Iterator[bytes]:
    while True:
        time.sleep(0.01)
        yield piece


def test_eight_hundred_idle_sockets_are_closed(strict: Server) -> None:
    with a_tenant(strict) as tenant, ExitStack() as stack:
        begun = (
            b"",
            b"GET /healthz HTTP/1.1\r\nhos",
            head("POST", "/v1/responses", tenant.secret, content_length=9) + b"{",
        )
        connections = [stack.enter_context(RawConnection(strict)).send(begun[each % 3]) for each in range(800)]
        for each, connection in enumerate(connections):
            if each % 3:
                connection.answer().assert_refused(408, "request_timeout")
            assert connection.is_ended()
        await_until(lambda: not strict.uvicorn.server_state.connections, 5, "connections are still open")


@pytest.mark.parametrize("what", ["head", "empty lines"])
def test_a_head_sent_byte_by_byte_times_out(strict: Server, what: str) -> None:
    pieces = [b"%c" % each for each in HEALTH[:-1]] * 9 if what == "head" else [b"\r\n"] * 200
    begun_at = time.monotonic()
    with RawConnection(strict) as connection:
        stop = threading.Event()
        with ThreadPoolExecutor(1) as pool:

            def trickle() -> None:
                for each in pieces:
                    if stop.wait(LIMIT / 6) or not connection.send_until_closed([each]):
                        return

            trickling = pool.submit(trickle)
            try:
                connection.answer().assert_refused(408, "request_timeout")
            finally:
                stop.set()
            trickling.result()
    assert time.monotonic() - begun_at < 4 * LIMIT


def test_a_body_sent_byte_by_byte_times_out(strict: Server) -> None:
    with a_tenant(strict) as tenant, RawConnection(strict) as connection:
        connection.send(head("POST", "/v1/responses", tenant.secret, content_length=10_000))
        begun_at = time.monotonic()
        stop = threading.Event()
        with ThreadPoolExecutor(1) as pool:

            def trickle() -> None:
                while not stop.wait(LIMIT / 3) and connection.send_until_closed([b" "]):
                    pass

            trickling = pool.submit(trickle)
            try:
                connection.answer().assert_refused(408, "request_timeout")
            finally:
                stop.set()
            trickling.result()
        assert 9 * LIMIT < time.monotonic() - begun_at < 15 * LIMIT


def test_a_body_in_pieces_may_take_longer_than_each_pause(strict: Server) -> None:
    with a_tenant(strict) as tenant, RawConnection(strict) as connection:
        connection.send(head("POST", "/v1/responses", tenant.secret, content_length=len(CREATE)))
        for each in range(0, len(CREATE), 20):
            time.sleep(LIMIT / 2)  # the pause itself is what is tested
            connection.send(CREATE[each : each + 20])
        assert connection.answer().status == 200


def test_a_refused_body_is_not_read_for_ever(strict: Server) -> None:
    with a_tenant(strict) as tenant, RawConnection(strict) as connection:
        connection.send(head("POST", "/v1/responses", tenant.secret, content_length=10**12))
        assert connection.answer().status == 413
        begun_at = time.monotonic()
        connection.send_until_closed(steadily(b" " * KB))
        assert time.monotonic() - begun_at < 4 * LIMIT + 3


@pytest.mark.parametrize("way", ["held create", "wait", "stream of a create", "stream"])
def test_a_client_that_waits_silently_is_not_disconnected(strict: Server, way: str) -> None:
    with a_tenant(strict) as tenant:
        if way in {"held create", "stream of a create"}:
            fields = {"background": False, "stream": way != "held create"}
            request = tenant.http.build_request(
                "POST", "/v1/responses", json={"model": MODEL, "input": "Hello", **fields}
            )
        else:
            job_id = tenant.submit()["id"]
            query = {"wait": 60} if way == "wait" else {"stream": True}
            request = tenant.http.build_request("GET", f"/v1/responses/{job_id}", params=query)
        with ThreadPoolExecutor(1) as pool:
            answering = pool.submit(tenant.http.send, request)
            job_id = tenant.only_id()
            await_until(
                lambda: strict.waiting(job_id) or job_id in strict.state.listener._watching,
                5,
                "the request does not wait",
            )
            time.sleep(4 * LIMIT)  # the silence itself is what is tested
            assert not answering.done()
            FakeWorker(strict).complete(job_id)
            answer = answering.result(10)
        assert answer.status_code == 200
        assert "The answer is 42." in answer.text


def test_a_connection_may_be_idle_between_requests_longer_than_the_head_timeout(strict: Server) -> None:
    with RawConnection(strict) as connection:
        for _ in range(2):
            assert connection.send(HEALTH).answer().status == 200
            time.sleep(3 * LIMIT)  # the idle time itself is what is tested
        assert connection.send(HEALTH).answer().status == 200


def large_answer(server: Server, tenant: Tenant) -> bytes:
    """Return a request for an answer that is larger than all buffers on its way."""
    job_id = tenant.submit()["id"]
    FakeWorker(server).complete(job_id, "x" * 16 * MB)
    return head("GET", f"/v1/responses/{job_id}", tenant.secret)


@pytest.mark.parametrize(
    "how", ["whole", *(pytest.param(each, marks=pytest.mark.long) for each in ("streamed", "last"))]
)
def test_a_reader_that_has_stopped_reading_is_disconnected(strict: Server, how: str) -> None:
    with a_tenant(strict) as tenant:
        request = large_answer(strict, tenant)
        if how == "streamed":
            request = request.replace(b" HTTP/1.1", b"?stream=true HTTP/1.1")
        elif how == "last":
            request = request.replace(b"host: x", b"host: x\r\nconnection: close")
        with RawConnection(strict, receives=KB) as connection:
            connection.send(request)
            assert connection.socket.recv(12) == b"HTTP/1.1 200"
            await_until(lambda: not strict.uvicorn.server_state.connections, 10, "its connection is still open")
            await_until(lambda: not strict.uvicorn.server_state.tasks, 10, "its answer is still being sent")


def test_a_slow_reader_gets_the_whole_answer(strict: Server) -> None:
    with a_tenant(strict) as tenant, RawConnection(strict, receives=KB) as connection:
        connection.send(large_answer(strict, tenant))
        until = time.monotonic() + 5 * LIMIT
        size = 0
        while time.monotonic() < until:
            size += len(connection.socket.recv(64 * KB))
            time.sleep(0.02)  # a slow reader
        while size < 16 * MB:
            data = connection.socket.recv(MB)
            assert data, f"it ended after {size} bytes"
            size += len(data)


# --- pipelining


def test_pipelined_requests_are_answered_in_their_order(server: Server, tenant: Tenant) -> None:
    with RawConnection(server) as connection:
        connection.send(*(head("GET", f"/nothing/{each}") for each in range(20)))
        for each in range(20):
            assert f"/nothing/{each})" in connection.answer().json()["error"]["message"]


def test_ten_thousand_pipelined_requests_are_not_kept_in_memory(server: Server) -> None:
    request = b"GET /healthz HTTP/1.1\r\n\r\n"
    with RawConnection(server) as connection, limited_memory(4 * MB):
        connection.send_until_closed([request * 10_000])
        answered = 0
        while True:
            answer = connection.answer()
            assert answer.status == 200
            answered += 1
            if answer.headers.get("connection") == "close":
                break
        assert 1 < answered < 1000
        assert connection.is_ended()


def test_half_a_request_after_a_held_one_does_not_end_the_held_one(strict: Server) -> None:
    with a_tenant(strict) as tenant, RawConnection(strict) as connection:
        job_id = tenant.submit()["id"]
        connection.send(head("GET", f"/v1/responses/{job_id}?wait=60", tenant.secret) + b"GET /healthz HTTP")
        await_until(lambda: strict.waiting(job_id), 5, "the request does not wait")
        time.sleep(3 * LIMIT)  # the silence itself is what is tested
        FakeWorker(strict).complete(job_id)
        assert connection.answer().json()["status"] == "completed"
        connection.answer().assert_refused(408, "request_timeout")


@pytest.mark.parametrize("behind", [b"\0\r\n\r\n", b"GET /" + b"a" * 2 * HEAD_LIMIT, HEALTH * 100])
def test_an_invalid_request_after_a_held_one_waits_for_the_answer_of_the_held_one(
    server: Server, tenant: Tenant, behind: bytes
) -> None:
    with RawConnection(server) as connection:
        job_id = tenant.submit()["id"]
        connection.send(head("GET", f"/v1/responses/{job_id}?wait=60", tenant.secret) + behind)
        await_until(lambda: server.waiting(job_id), 5, "the request does not wait")
        FakeWorker(server).complete(job_id)
        assert connection.answer().json()["status"] == "completed"
        while not connection.is_ended():
            assert connection.answer().status == 200


def test_disconnecting_with_pipelined_requests_ends_the_wait(server: Server, tenant: Tenant) -> None:
    job_id = tenant.submit()["id"]
    with RawConnection(server) as connection:
        connection.send(head("GET", f"/v1/responses/{job_id}?wait=60", tenant.secret) + HEALTH)
        await_until(lambda: server.waiting(job_id), 5, "the request does not wait")
    await_until(lambda: not server.waiting(job_id), 5, "the wait goes on")


@pytest.mark.parametrize("begun", [b"", b"GET /hea", head("POST", "/v1/responses", content_length=9) + b"{"])
def test_a_half_closed_connection_ends(server: Server, begun: bytes) -> None:
    with RawConnection(server) as connection:
        connection.send(begun)
        connection.socket.shutdown(socket.SHUT_WR)
        await_until(lambda: connection.is_ended() or True, 5, "it does not end")
        assert connection.is_ended() or connection.answer().status == 401


# --- number of connections


def test_connections_over_the_limit_get_503_and_are_closed(server: Server) -> None:
    with serving(server, max_connections=5) as small, ExitStack() as stack:
        connections = [stack.enter_context(RawConnection(small)) for _ in range(5)]
        assert all(each.send(HEALTH).answer().status == 200 for each in connections)
        for _ in range(3):
            with RawConnection(small) as connection:
                answer = connection.send(HEALTH).answer()
                answer.assert_refused(503, "too_many_connections")
                assert answer.headers["retry-after"] == "1"
                assert connection.is_ended()
        assert all(each.send(HEALTH).answer().status == 200 for each in connections)
        connections[0].socket.close()
        await_until(lambda: len(small.uvicorn.server_state.connections) < 5, 5, "the connection is still open")
        with RawConnection(small) as connection:
            assert connection.send(HEALTH).answer().status == 200


def test_a_flood_of_connections_does_not_disturb_open_ones(server: Server) -> None:
    with serving(server, max_connections=5) as small, httpx.Client(base_url=small.url, trust_env=False) as first:
        assert first.get("/healthz").status_code == 200
        with ExitStack() as stack:
            for _ in range(300):
                stack.enter_context(RawConnection(small))
            assert first.get("/healthz").status_code == 200
            await_until(
                lambda: len(small.uvicorn.server_state.connections) <= 5, 10, "refused connections are still open"
            )
        assert first.get("/healthz").status_code == 200
