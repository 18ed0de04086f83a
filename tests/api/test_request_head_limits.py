"""Heads, chunk extensions and trailers have size limits and are not kept in memory beyond them."""

import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.api.connections import CREATE, HEAD_LIMIT, KB, MB, RawConnection, chunk, head, limited_memory
from tests.api.world import Server, Tenant

pytestmark = pytest.mark.one_database


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
def test_sixty_five_megabytes_of_head_are_refused_and_not_kept_in_memory(
    server: Server, start: bytes, rest: Any
) -> None:
    with RawConnection(server) as connection, limited_memory(4 * MB):
        connection.send(start).send_until_closed(rest())
    with RawConnection(server) as connection:
        connection.send(start)
        pieces = rest()
        size = len(start)
        while size < HEAD_LIMIT:
            piece = next(pieces)
            connection.send(piece)
            size += len(piece)
        connection.answer().assert_refused(431, "request_head_too_large")
        assert connection.is_ended()


def test_a_head_may_have_64_kb_and_not_one_byte_more(server: Server) -> None:
    for size, status in ((HEAD_LIMIT, 200), (HEAD_LIMIT + 1, 431)):
        for at_once in (True, False):
            start = b"GET /healthz HTTP/1.1\r\nhost: x\r\nx: "
            whole = start + b"a" * (size - len(start) - 4) + b"\r\n\r\n"
            with RawConnection(server) as connection:
                if at_once:
                    connection.send(whole)
                else:
                    connection.send(whole[:1000])
                    time.sleep(0.01)  # so that it comes in two pieces
                    connection.send(whole[1000:])
                assert connection.answer().status == status


def test_each_request_of_a_connection_may_have_64_kb(server: Server) -> None:
    whole = head("GET", "/healthz", x="a" * (HEAD_LIMIT - KB))
    with RawConnection(server) as connection:
        for _ in range(5):
            assert connection.send(whole).answer().status == 200


@pytest.mark.parametrize(
    ("between", "status", "code"),
    [
        (lambda: [chunk(b" ", b";x=" + b"a" * 2 * HEAD_LIMIT)], 431, "request_head_too_large"),
        (lambda: [chunk(b" ", b";x=" + b"a" * 8 * KB)] * 10, 431, "request_head_too_large"),
        (lambda: [b"0" * 2 * HEAD_LIMIT + chunk(b" ")], 431, "request_head_too_large"),
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
def test_bytes_between_chunks_are_limited_too(
    server: Server, tenant: Tenant, between: Any, status: int, code: str
) -> None:
    with RawConnection(server) as connection, limited_memory(4 * MB):
        connection.send(head("POST", "/v1/responses", tenant.secret, transfer_encoding="chunked"), chunk(CREATE))
        connection.send_until_closed(between())
        connection.answer().assert_refused(status, code)
        assert connection.is_ended()
    assert tenant.ids() == []


def test_small_chunks_short_extensions_and_trailers_are_accepted(server: Server, tenant: Tenant) -> None:
    with RawConnection(server) as connection:
        connection.send(head("POST", "/v1/responses", tenant.secret, transfer_encoding="chunked"))
        connection.send(*(chunk(CREATE[each : each + 1], b";x=1") for each in range(len(CREATE))))
        connection.send(*[chunk(b" ")] * 10_000, b"0\r\nx: y\r\n\r\n")
        assert connection.answer().status == 200
    assert len(tenant.ids()) == 1
