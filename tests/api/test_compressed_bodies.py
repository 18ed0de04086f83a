"""Compressed bodies are accepted like plain ones, under the same size limit."""

import gzip
import json
import socket
import tracemalloc
import zlib
from collections.abc import Callable, Iterator

import httpx
import pytest

from tests.api.world import MODEL, TEXT, FakeWorker, Json, Server, Tenant, a_tenant, assert_error, serve, settings_for
from tests.support.waiting import await_until

pytestmark = pytest.mark.one_database

LIMIT = 10_485_760
BODY: Json = {"model": MODEL, "input": "Hello " * 40_000, "background": True}
PLAIN = json.dumps(BODY).encode()
HALF = len(PLAIN) // 2


def raw_deflate(data: bytes) -> bytes:
    return zlib.compress(data, wbits=-zlib.MAX_WBITS)


WAYS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress),
    "gzip by its old name": ("x-gzip", gzip.compress),
    "gzip, as others write it": ("GZIP", gzip.compress),
    "gzip and nothing more": ("identity, gzip", gzip.compress),
    "gzip of several members": ("gzip", lambda data: gzip.compress(data[:HALF]) + gzip.compress(data[HALF:])),
    "gzip with an empty member": ("gzip", lambda data: gzip.compress(data) + gzip.compress(b"")),
    "deflate": ("deflate", zlib.compress),
    "deflate without zlib's frame": ("deflate", raw_deflate),
    "identity": ("identity", bytes),
    "an empty header": ("", bytes),
}
each_way = pytest.mark.parametrize(("encoding", "compress"), WAYS.values(), ids=WAYS.keys())


def post(tenant: Tenant, content: bytes | Iterator[bytes], encoding: str, **headers: str) -> httpx.Response:
    named = {"content-encoding": encoding, "content-type": "application/json", **headers}
    return tenant.http.post("/v1/responses", content=content, headers=named)


def prompt(tenant: Tenant, job_id: str) -> str:
    [item] = tenant.http.get(f"/v1/responses/{job_id}/input_items").json()["data"]
    text: str = item["content"][0]["text"]
    return text


@each_way
def test_a_compressed_body_is_read_like_a_plain_one(
    tenant: Tenant, encoding: str, compress: Callable[[bytes], bytes]
) -> None:
    answer = post(tenant, compress(PLAIN), encoding)
    assert answer.status_code == 200, answer.text
    assert prompt(tenant, answer.json()["id"]) == BODY["input"]


@each_way
def test_a_compressed_body_may_arrive_byte_by_byte(
    tenant: Tenant, encoding: str, compress: Callable[[bytes], bytes]
) -> None:
    small = json.dumps({**BODY, "input": "Hello"}).encode()
    compressed = compress(small)
    answer = post(tenant, (compressed[at : at + 1] for at in range(len(compressed))), encoding)
    assert answer.status_code == 200, answer.text
    assert prompt(tenant, answer.json()["id"]) == "Hello"


BROKEN: dict[str, tuple[str, bytes]] = {
    "plain": ("gzip", PLAIN),
    "another way": ("gzip", zlib.compress(PLAIN)),
    "cut": ("gzip", gzip.compress(PLAIN)[:-200]),
    "cut before its checksum": ("gzip", gzip.compress(PLAIN)[:-8]),
    "cut within its head": ("gzip", gzip.compress(PLAIN)[:5]),
    "cut in its second member": ("gzip", gzip.compress(PLAIN) + gzip.compress(b" ")[:-1]),
    "damaged": ("gzip", gzip.compress(PLAIN)[:-5] + b"\0" + gzip.compress(PLAIN)[-4:]),
    "followed by something": ("gzip", gzip.compress(PLAIN) + b"{}"),
    "deflate, cut": ("deflate", zlib.compress(PLAIN)[:-1]),
    "deflate, followed by something": ("deflate", zlib.compress(PLAIN) + b"{}"),
    "deflate, raw and cut": ("deflate", raw_deflate(PLAIN)[:-1]),
    "deflate of plain": ("deflate", PLAIN),
}


@pytest.mark.parametrize(("encoding", "content"), BROKEN.values(), ids=BROKEN.keys())
def test_broken_compressed_data_is_refused_and_creates_no_job(tenant: Tenant, encoding: str, content: bytes) -> None:
    answer = post(tenant, content, encoding)
    error = assert_error(answer, 400, code="invalid_value", param="Content-Encoding")
    assert "decompressed" in error
    assert tenant.ids() == []


def test_an_invalid_body_gets_the_same_error_when_compressed(tenant: Tenant) -> None:
    assert_error(post(tenant, gzip.compress(b"[]"), "gzip"), 400, code="invalid_json")
    assert_error(post(tenant, b"", "gzip"), 400, code="invalid_json")
    assert_error(post(tenant, gzip.compress(b"{}"), "gzip"), 400, code="missing_required_parameter", param="model")


@pytest.mark.parametrize("encoding", ["br", "zstd", "compress", "gzip, gzip", "gzip, br", "gzip;q=1", "~"])
def test_an_unknown_encoding_is_refused_and_the_known_ones_are_named(tenant: Tenant, encoding: str) -> None:
    answer = post(tenant, gzip.compress(PLAIN), encoding)
    error = assert_error(answer, 415, code="unsupported_content_encoding", param="Content-Encoding")
    assert "'Content-Encoding'" in error
    assert "gzip, deflate, identity" in error
    assert answer.headers["accept-encoding"] == "gzip, deflate, identity"
    assert tenant.ids() == []


def test_without_a_key_nothing_is_decompressed(server: Server) -> None:
    with server.client("bb_nobody") as http:
        answer = http.post("/v1/responses", content=b"no gzip", headers={"content-encoding": "gzip"})
    assert answer.status_code == 401


def test_the_exact_size_limit_is_on_the_decompressed_body(server: Server) -> None:
    settings = settings_for(server.settings.database, server.settings.redis, max_body_bytes=200_000)
    with serve(settings) as strict, a_tenant(strict) as tenant:
        empty = json.dumps({"model": MODEL, "background": True, "input": ""})
        exactly = empty.replace('""', '"' + "x" * (200_000 - len(empty)) + '"').encode()
        assert len(exactly) == 200_000
        for compress in (gzip.compress, zlib.compress, lambda data: gzip.compress(data, 0)):
            assert post(tenant, compress(exactly), "gzip" if compress is not zlib.compress else "deflate").is_success
        assert_error(post(tenant, gzip.compress(exactly + b" "), "gzip"), 413, code="request_too_large")
        in_two = gzip.compress(exactly) + gzip.compress(b" ")
        assert_error(post(tenant, in_two, "gzip"), 413, code="request_too_large")


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_gigabyte_in_a_megabyte_is_refused_and_not_kept_in_memory(tenant: Tenant, encoding: str) -> None:
    packer = zlib.compressobj(wbits=16 + zlib.MAX_WBITS if encoding == "gzip" else zlib.MAX_WBITS)
    zeros = bytes(2**20)
    bomb = b"".join([*(packer.compress(zeros) for _ in range(2**10)), packer.flush()])
    assert len(bomb) < 2**21
    tracemalloc.start()
    try:
        answer = post(tenant, bomb, encoding)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert str(LIMIT) in assert_error(answer, 413, code="request_too_large")
    assert peak < 1.5 * LIMIT
    assert tenant.ids() == []


def test_the_number_of_empty_gzip_members_is_limited(server: Server) -> None:
    settings = settings_for(server.settings.database, server.settings.redis, max_body_bytes=100_000)
    with serve(settings) as strict, a_tenant(strict) as tenant:
        head = f"POST /v1/responses HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {tenant.secret}\r\n"
        nothing = gzip.compress(b"") * 1000
        chunk = f"{len(nothing):x}\r\n".encode() + nothing + b"\r\n"
        with socket.create_connection(("127.0.0.1", strict.port), timeout=10) as connection:
            connection.sendall(f"{head}content-encoding: gzip\r\ntransfer-encoding: chunked\r\n\r\n".encode())
            for _ in range(200_000 // len(nothing) + 1):
                connection.sendall(chunk)
            assert connection.recv(100).startswith(b"HTTP/1.1 400 ")


def test_an_idempotency_key_compares_decompressed_bodies(tenant: Tenant) -> None:
    key = {"idempotency-key": "mine"}
    first = post(tenant, gzip.compress(PLAIN, 9), "gzip", **key).json()["id"]
    again = [post(tenant, gzip.compress(PLAIN, 1), "gzip", **key), post(tenant, PLAIN, "identity", **key)]
    assert [each.json()["id"] for each in again] == [first, first]
    other = post(tenant, gzip.compress(PLAIN + b" "), "gzip", **key)
    assert_error(other, 422, code="idempotency_key_reused", param="Idempotency-Key")


@pytest.mark.parametrize(("encoding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress), ("", bytes)])
def test_an_sdks_retry_joins_its_job_whatever_the_compression(
    server: Server, tenant: Tenant, worker: FakeWorker, encoding: str, compress: Callable[[bytes], bytes]
) -> None:
    plain = PLAIN.replace(b', "background": true', b"")
    content = gzip.compress(plain, 1)
    head = (
        f"POST /v1/responses HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {tenant.secret}\r\n"
        f"x-stainless-retry-count: 0\r\ncontent-encoding: gzip\r\ncontent-length: {len(content)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(head.encode() + content)
        job_id = tenant.only_id()
        await_until(lambda: server.waiting(job_id), 5, "nobody waits")
    worker.complete(job_id)
    answer = post(tenant, compress(plain), encoding, **{"x-stainless-retry-count": "1"})
    assert answer.json()["id"] == job_id
    assert answer.json()["output"][0]["content"][0]["text"] == TEXT
    assert tenant.ids() == [job_id]


def test_every_body_may_be_compressed(tenant: Tenant) -> None:
    content = gzip.compress(json.dumps({"model": MODEL, "input": "Hello"}).encode())
    counted = tenant.http.post("/v1/responses/input_tokens", content=content, headers={"content-encoding": "gzip"})
    assert counted.json()["input_tokens"] > 0
