"""Any path, query or header gets an answer in OpenAI's shape and causes no internal error."""

import socket

import httpx
import pytest

from tests.api.world import MODEL, Server, Tenant

NASTY = {
    "nul": "%00",
    "nul inside": "resp_%00abc",
    "not utf-8": "%ff%fe",
    "surrogate": "%ED%A0%80",
    "overlong": "%c0%af",
    "astral": "%F0%9F%92%A5",
    "right to left": "%E2%80%AE",
    "line break": "%0d%0ax-injected:%201",
    "sql": "'%3B%20DROP%20TABLE%20jobs%3B--",
    "like": "%25",
    "template": "%7B%7B7*7%7D%7D%24%7Bx%7D%25s",
    "dots": "..%2f..%2fetc%2fpasswd",
    "long": "x" * 8_000,
    "empty": "",
    "number": "1e309",
    "json": "%7B%22a%22:1%7D",
}
PATHS = [
    ("GET", "/v1/responses/{}"),
    ("GET", "/v1/responses/{}?wait=0.01"),
    ("GET", "/v1/responses/{}/attempts"),
    ("POST", "/v1/responses/{}/cancel"),
    ("POST", "/v1/responses/{}/retry"),
    ("DELETE", "/v1/responses/{}"),
    ("GET", "/v1/models/{}"),
    ("GET", "/v1/{}"),
    ("GET", "/{}"),
]
QUERIES = [
    *(f"/v1/responses?{name}={{}}" for name in ("limit", "after", "order", "status", "model")),
    *(f"/v1/responses?{name}={{}}" for name in ("created_after", "created_before", "metadata[a]", "metadata")),
    "/v1/responses?metadata[{}]=a",
    "/v1/responses?{}",
    "/v1/usage?start={}",
    "/v1/usage?end={}",
    "/v1/models?{}",
]

each_nasty = pytest.mark.parametrize("nasty", NASTY.values(), ids=NASTY.keys())


def assert_answered(answer: httpx.Response) -> None:
    assert answer.status_code < 500, answer.text
    assert answer.headers["x-request-id"].startswith("req_")
    assert "x-injected" not in answer.headers
    if answer.status_code >= 400:
        assert answer.json()["error"].keys() == {"message", "type", "param", "code"}


@each_nasty
def test_nasty_paths(tenant: Tenant, nasty: str) -> None:
    for method, path in PATHS:
        answer = tenant.http.request(method, path.format(nasty))
        assert_answered(answer)
        assert answer.is_error or nasty == "", f"{method} {path}"


@each_nasty
def test_nasty_queries(tenant: Tenant, nasty: str) -> None:
    for query in QUERIES:
        assert_answered(tenant.http.get(query.format(nasty)))
    job_id = tenant.submit()["id"]
    for name in ("wait", "stream", "starting_after", "include[]"):
        assert_answered(tenant.http.get(f"/v1/responses/{job_id}?{name}={nasty}"))


@pytest.mark.parametrize("value", [b"\xff\xfe", b"\x01", b'"', b'W/"', b"a," * 2000, b"\xed\xa0\x80"])
def test_nasty_headers(server: Server, tenant: Tenant, value: bytes) -> None:
    job_id = tenant.submit()["id"]
    for name in (b"if-none-match", b"content-type", b"accept", b"x-request-id", b"content-encoding"):
        head = f"GET /v1/responses/{job_id} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {tenant.secret}\r\n".encode()
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
            connection.sendall(head + name + b": " + value + b"\r\nconnection: close\r\n\r\n")
            assert connection.recv(12) in {b"HTTP/1.1 200", b"HTTP/1.1 400"}  # 400: the server's own parser
    for auth in (b"Bearer " + value, value):
        answer = server_answer(server, auth)
        assert answer in {b"HTTP/1.1 401", b"HTTP/1.1 400"}


def server_answer(server: Server, authorization: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(b"GET /v1/models HTTP/1.1\r\nhost: x\r\nauthorization: " + authorization + b"\r\n\r\n")
        return connection.recv(12)


@pytest.mark.parametrize("count", ["9" * 5_000, "0" * 5_000, "0" * 5_000 + "1", "-1", "1e9", "\u00b2", ""])
def test_a_retry_count_of_any_length_causes_no_internal_error(tenant: Tenant, count: str) -> None:
    headers = {b"x-stainless-retry-count": count.encode("latin-1")}
    answer = tenant.http.post(
        "/v1/responses", json={"model": MODEL, "input": "Hello", "background": True}, headers=headers
    )
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("length", ["0" * 5_000 + "2", "0" * 5_000 + "99999999", "9" * 5_000, "18446744073709551616"])
def test_a_content_length_of_any_length_causes_no_internal_error(server: Server, tenant: Tenant, length: str) -> None:
    head = f"POST /v1/responses HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {tenant.secret}\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(f"{head}content-length: {length}\r\n\r\n{{}}".encode())
        answer = connection.recv(65536)
    assert answer.split(b" ")[1] in {b"400", b"413"}, answer
