"""What a stranger's connection may cost: how much it sends before anybody knows whose it is, and how long it lags."""

import json
import socket
import threading
import time
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
import pytest

from tests.api.connections import Line, chunk, head
from tests.api.world import MODEL, Hand, Server, Tenant, a_tenant, serve, settings_for
from tests.support.waiting import await_until

pytestmark = pytest.mark.one_database

KB = 1024
MB = 1024 * KB
MOST = 64 * KB
LIMIT = 0.6
"""Seconds that this module's server gives to a head, between pieces of a body, and to a reader."""
CREATE = json.dumps({"model": MODEL, "input": "Hello", "background": True}).encode()
HEALTH = head("GET", "/healthz")


@pytest.fixture(scope="module")
def strict(server: Server) -> Iterator[Server]:
    """It waits for nobody."""
    with serving(server, head_timeout_seconds=LIMIT, body_timeout_seconds=LIMIT, write_timeout_seconds=LIMIT) as strict:
        yield strict


@contextmanager
def serving(server: Server, **overrides: Any) -> Iterator[Server]:
    with serve(settings_for(server.settings.database, server.settings.redis, **overrides)) as other:
        yield other


@contextmanager
def most_held(limit: int) -> Iterator[None]:
    """Python's own memory never grows by more."""
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < limit, f"{peak / MB:.1f} MB were held"


def steadily(piece: bytes) -> Iterator[bytes]:
    while True:
        time.sleep(0.01)
        yield piece


def small_headers() -> Iterator[bytes]:
    for block in range(1000):
        yield b"".join(b"x-%07d: %b\r\n" % (block * 650 + each, b"a" * 88) for each in range(650))


HUGE_HEADS = {
    "small headers": (b"GET /healthz HTTP/1.1\r\nhost: x\r\n", small_headers),
    "one header": (b"GET /healthz HTTP/1.1\r\nhost: x\r\nx: ", lambda: iter([b"a" * KB] * 65 * KB)),
    "a header's name": (b"GET /healthz HTTP/1.1\r\nhost: x\r\n", lambda: iter([b"a" * KB] * 65 * KB)),
    "the request line": (b"GET /", lambda: iter([b"a" * KB] * 65 * KB)),
    "empty lines": (b"\r\n", lambda: iter([b"\r\n" * 512] * 65 * KB)),
}


@pytest.mark.parametrize(("start", "rest"), HUGE_HEADS.values(), ids=HUGE_HEADS.keys())
def test_sixty_five_megabytes_of_head_are_refused_and_never_held(server: Server, start: bytes, rest: Any) -> None:
    with Line(server) as line, most_held(4 * MB):
        line.send(start).send_as_long_as_it_is_heard(rest())
    with Line(server) as line:
        line.send(start)
        pieces = rest()
        size = len(start)
        while size < MOST:
            piece = next(pieces)
            line.send(piece)
            size += len(piece)
        line.answer().assert_refused(431, "request_head_too_large")
        assert line.is_ended()


def test_a_head_may_have_64_kb_and_not_one_byte_more(server: Server) -> None:
    for size, status in ((MOST, 200), (MOST + 1, 431)):
        for at_once in (True, False):
            start = b"GET /healthz HTTP/1.1\r\nhost: x\r\nx: "
            whole = start + b"a" * (size - len(start) - 4) + b"\r\n\r\n"
            with Line(server) as line:
                if at_once:
                    line.send(whole)
                else:
                    line.send(whole[:1000])
                    time.sleep(0.01)  # so that it comes in two pieces
                    line.send(whole[1000:])
                assert line.answer().status == status


def test_each_request_of_a_connection_may_have_64_kb(server: Server) -> None:
    whole = head("GET", "/healthz", x="a" * (MOST - KB))
    with Line(server) as line:
        for _ in range(5):
            assert line.send(whole).answer().status == 200


@pytest.mark.parametrize(
    ("between", "status", "code"),
    [
        (lambda: [chunk(b" ", b";x=" + b"a" * 2 * MOST)], 431, "request_head_too_large"),
        (lambda: [chunk(b" ", b";x=" + b"a" * 8 * KB)] * 10, 431, "request_head_too_large"),
        (lambda: [b"0" * 2 * MOST + chunk(b" ")], 431, "request_head_too_large"),
        (
            lambda: [b"0\r\n", *(b"x-%d: %b\r\n" % (each, b"a" * KB) for each in range(80))],
            431,
            "request_head_too_large",
        ),
        (lambda: [b"0\r\nx: ", *[b"a" * KB] * 80], 431, "request_head_too_large"),
        (lambda: [chunk(b" ") * 200_000], 400, "invalid_http"),
        (lambda: [b"f" * 17 + b"\r\n"], 400, "invalid_http"),
        (lambda: [b"-1\r\n"], 400, "invalid_http"),
        (lambda: [b"zz\r\n"], 400, "invalid_http"),
    ],
    ids=[
        "a long extension",
        "many extensions",
        "many zeros",
        "many trailers",
        "a long trailer",
        "tiny chunks",
        "a huge size",
        "a negative size",
        "no size",
    ],
)
def test_what_stands_between_chunks_is_no_way_around(
    server: Server, tenant: Tenant, between: Any, status: int, code: str
) -> None:
    with Line(server) as line, most_held(4 * MB):
        line.send(head("POST", "/v1/responses", tenant.secret, transfer_encoding="chunked"), chunk(CREATE))
        line.send_as_long_as_it_is_heard(between())
        line.answer().assert_refused(status, code)
        assert line.is_ended()
    assert tenant.ids() == []


def test_small_chunks_short_extensions_and_trailers_are_taken(server: Server, tenant: Tenant) -> None:
    with Line(server) as line:
        line.send(head("POST", "/v1/responses", tenant.secret, transfer_encoding="chunked"))
        line.send(*(chunk(CREATE[each : each + 1], b";x=1") for each in range(len(CREATE))))
        line.send(*[chunk(b" ")] * 10_000, b"0\r\nx: y\r\n\r\n")
        assert line.answer().status == 200
    assert len(tenant.ids()) == 1


# --- time


def test_eight_hundred_idle_sockets_are_closed(strict: Server) -> None:
    with a_tenant(strict) as tenant, ExitStack() as stack:
        begun = (
            b"",
            b"GET /healthz HTTP/1.1\r\nhos",
            head("POST", "/v1/responses", tenant.secret, content_length=9) + b"{",
        )
        lines = [stack.enter_context(Line(strict)).send(begun[each % 3]) for each in range(800)]
        for each, line in enumerate(lines):
            if each % 3:
                line.answer().assert_refused(408, "request_timeout")
            assert line.is_ended()
        await_until(lambda: not strict.uvicorn.server_state.connections, 5, "connections are still open")


@pytest.mark.parametrize("what", ["head", "empty lines"])
def test_a_head_that_trickles_has_no_more_time(strict: Server, what: str) -> None:
    pieces = [b"%c" % each for each in HEALTH[:-1]] * 9 if what == "head" else [b"\r\n"] * 200
    begun_at = time.monotonic()
    with Line(strict) as line:
        stop = threading.Event()
        with ThreadPoolExecutor(1) as pool:

            def trickle() -> None:
                for each in pieces:
                    if stop.wait(LIMIT / 6) or not line.send_as_long_as_it_is_heard([each]):
                        return

            trickling = pool.submit(trickle)
            try:
                line.answer().assert_refused(408, "request_timeout")
            finally:
                stop.set()
            trickling.result()
    assert time.monotonic() - begun_at < 4 * LIMIT


def test_a_body_that_trickles_for_ever_is_ended(strict: Server) -> None:
    with a_tenant(strict) as tenant, Line(strict) as line:
        line.send(head("POST", "/v1/responses", tenant.secret, content_length=10_000))
        begun_at = time.monotonic()
        stop = threading.Event()
        with ThreadPoolExecutor(1) as pool:

            def trickle() -> None:
                while not stop.wait(LIMIT / 3) and line.send_as_long_as_it_is_heard([b" "]):
                    pass

            trickling = pool.submit(trickle)
            try:
                line.answer().assert_refused(408, "request_timeout")
            finally:
                stop.set()
            trickling.result()
        assert 9 * LIMIT < time.monotonic() - begun_at < 15 * LIMIT


def test_a_body_in_pieces_may_take_longer_than_each_pause(strict: Server) -> None:
    with a_tenant(strict) as tenant, Line(strict) as line:
        line.send(head("POST", "/v1/responses", tenant.secret, content_length=len(CREATE)))
        for each in range(0, len(CREATE), 20):
            time.sleep(LIMIT / 2)  # the pause itself is what is tested
            line.send(CREATE[each : each + 20])
        assert line.answer().status == 200


def test_a_body_that_nobody_wants_is_not_read_for_ever(strict: Server) -> None:
    with a_tenant(strict) as tenant, Line(strict) as line:
        line.send(head("POST", "/v1/responses", tenant.secret, content_length=10**12))
        assert line.answer().status == 413
        begun_at = time.monotonic()
        line.send_as_long_as_it_is_heard(steadily(b" " * KB))
        assert time.monotonic() - begun_at < 4 * LIMIT + 3


@pytest.mark.parametrize("way", ["held create", "wait", "stream of a create", "stream"])
def test_what_is_merely_quiet_is_not_ended(strict: Server, way: str) -> None:
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
            await_until(lambda: strict.waiting(job_id) or job_id in strict.state.listener._watching, 5, "nobody waits")
            time.sleep(4 * LIMIT)  # the silence itself is what is tested
            assert not answering.done()
            Hand(strict).complete(job_id)
            answer = answering.result(10)
        assert answer.status_code == 200
        assert "The answer is 42." in answer.text


def test_a_connection_may_rest_between_requests_longer_than_a_head_may_take(strict: Server) -> None:
    with Line(strict) as line:
        for _ in range(2):
            assert line.send(HEALTH).answer().status == 200
            time.sleep(3 * LIMIT)  # the rest itself is what is tested
        assert line.send(HEALTH).answer().status == 200


def large_answer(server: Server, tenant: Tenant) -> bytes:
    """The request for an answer larger than all buffers on its way."""
    job_id = tenant.submit()["id"]
    Hand(server).complete(job_id, "x" * 16 * MB)
    return head("GET", f"/v1/responses/{job_id}", tenant.secret)


@pytest.mark.parametrize(
    "how", ["whole", *(pytest.param(each, marks=pytest.mark.long) for each in ("streamed", "last"))]
)
def test_a_reader_that_has_stopped_reading_is_ended(strict: Server, how: str) -> None:
    with a_tenant(strict) as tenant:
        request = large_answer(strict, tenant)
        if how == "streamed":
            request = request.replace(b" HTTP/1.1", b"?stream=true HTTP/1.1")
        elif how == "last":
            request = request.replace(b"host: x", b"host: x\r\nconnection: close")
        with Line(strict, receives=KB) as line:
            line.send(request)
            assert line.socket.recv(12) == b"HTTP/1.1 200"
            await_until(lambda: not strict.uvicorn.server_state.connections, 10, "its connection is still open")
            await_until(lambda: not strict.uvicorn.server_state.tasks, 10, "its answer still goes on")


def test_a_reader_that_is_slow_gets_all(strict: Server) -> None:
    with a_tenant(strict) as tenant, Line(strict, receives=KB) as line:
        line.send(large_answer(strict, tenant))
        until = time.monotonic() + 5 * LIMIT
        size = 0
        while time.monotonic() < until:
            size += len(line.socket.recv(64 * KB))
            time.sleep(0.02)  # a slow reader
        while size < 16 * MB:
            data = line.socket.recv(MB)
            assert data, f"it ended after {size} bytes"
            size += len(data)


# --- one behind the other


def test_pipelined_requests_are_answered_in_their_order(server: Server, tenant: Tenant) -> None:
    with Line(server) as line:
        line.send(*(head("GET", f"/nothing/{each}") for each in range(20)))
        for each in range(20):
            assert f"/nothing/{each})" in line.answer().json()["error"]["message"]


def test_ten_thousand_pipelined_requests_are_not_held(server: Server) -> None:
    request = b"GET /healthz HTTP/1.1\r\n\r\n"
    with Line(server) as line, most_held(4 * MB):
        line.send_as_long_as_it_is_heard([request * 10_000])
        answered = 0
        while True:
            answer = line.answer()
            assert answer.status == 200
            answered += 1
            if answer.headers.get("connection") == "close":
                break
        assert 1 < answered < 1000
        assert line.is_ended()


def test_half_a_request_behind_a_held_one_does_not_end_it(strict: Server) -> None:
    with a_tenant(strict) as tenant, Line(strict) as line:
        job_id = tenant.submit()["id"]
        line.send(head("GET", f"/v1/responses/{job_id}?wait=60", tenant.secret) + b"GET /healthz HTTP")
        await_until(lambda: strict.waiting(job_id), 5, "nobody waits")
        time.sleep(3 * LIMIT)  # the silence itself is what is tested
        Hand(strict).complete(job_id)
        assert line.answer().json()["status"] == "completed"
        line.answer().assert_refused(408, "request_timeout")


@pytest.mark.parametrize("behind", [b"\0\r\n\r\n", b"GET /" + b"a" * 2 * MOST, HEALTH * 100])
def test_nonsense_behind_a_held_request_waits_for_its_answer(server: Server, tenant: Tenant, behind: bytes) -> None:
    with Line(server) as line:
        job_id = tenant.submit()["id"]
        line.send(head("GET", f"/v1/responses/{job_id}?wait=60", tenant.secret) + behind)
        await_until(lambda: server.waiting(job_id), 5, "nobody waits")
        Hand(server).complete(job_id)
        assert line.answer().json()["status"] == "completed"
        while not line.is_ended():
            assert line.answer().status == 200


def test_whoever_leaves_with_requests_behind_a_held_one_holds_nothing(server: Server, tenant: Tenant) -> None:
    job_id = tenant.submit()["id"]
    with Line(server) as line:
        line.send(head("GET", f"/v1/responses/{job_id}?wait=60", tenant.secret) + HEALTH)
        await_until(lambda: server.waiting(job_id), 5, "nobody waits")
    await_until(lambda: not server.waiting(job_id), 5, "it is still waited for")


@pytest.mark.parametrize("begun", [b"", b"GET /hea", head("POST", "/v1/responses", content_length=9) + b"{"])
def test_a_half_closed_connection_ends(server: Server, begun: bytes) -> None:
    with Line(server) as line:
        line.send(begun)
        line.socket.shutdown(socket.SHUT_WR)
        await_until(lambda: line.is_ended() or True, 5, "it does not end")
        assert line.is_ended() or line.answer().status == 401


# --- how many


def test_too_many_connections_are_told_so_and_closed(server: Server) -> None:
    with serving(server, max_connections=5) as small, ExitStack() as stack:
        lines = [stack.enter_context(Line(small)) for _ in range(5)]
        assert all(each.send(HEALTH).answer().status == 200 for each in lines)
        for _ in range(3):
            with Line(small) as line:
                answer = line.send(HEALTH).answer()
                answer.assert_refused(503, "too_many_connections")
                assert answer.headers["retry-after"] == "1"
                assert line.is_ended()
        assert all(each.send(HEALTH).answer().status == 200 for each in lines)
        lines[0].socket.close()
        await_until(lambda: len(small.uvicorn.server_state.connections) < 5, 5, "nobody left")
        with Line(small) as line:
            assert line.send(HEALTH).answer().status == 200


def test_a_flood_of_connections_leaves_those_who_are_there_alone(server: Server) -> None:
    with serving(server, max_connections=5) as small, httpx.Client(base_url=small.url, trust_env=False) as first:
        assert first.get("/healthz").status_code == 200
        with ExitStack() as stack:
            for _ in range(300):
                stack.enter_context(Line(small))
            assert first.get("/healthz").status_code == 200
            await_until(lambda: len(small.uvicorn.server_state.connections) <= 5, 10, "the refused ones stay")
        assert first.get("/healthz").status_code == 200
