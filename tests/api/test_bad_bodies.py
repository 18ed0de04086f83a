"""Bodies that are invalid or too large get a 4xx that names the fault, and create no job."""

import json
import socket
from collections.abc import Iterator

import pytest
from structlog.testing import capture_logs

from tests.api.world import MODEL, Json, Server, Tenant, a_tenant, assert_error, serve, settings_for
from tests.support.waiting import await_until

pytestmark = pytest.mark.one_database

LIMIT = 10_485_760
MEGABYTE = b"x" * 1_000_000

MALFORMED = {
    "empty": b"",
    "blank": b" \n",
    "cut": b'{"model": "openai/o3-pro", "input": "x',
    "array": b"[]",
    "text": b'"hello"',
    "null": b"null",
    "number": b"1",
    "not utf-8": b'{"model": "\xff"}',
    "utf-16": '{"model": "x"}'.encode("utf-16"),
    "nan": b'{"model": "m", "input": "x", "top_p": NaN}',
    "infinite": b'{"model": "m", "input": "x", "top_p": 1e999}',
    "huge integer": b'{"model": "m", "input": "x", "priority": 1' + b"0" * 5000 + b"}",
    "a key twice": b'{"model": "m", "model": "n", "input": "x"}',
    "half a surrogate": b'{"model": "m", "input": "x", "\\ud800": 1}',
    "deep": b'{"model": "m", "input": ' + b"[" * 100_000,
    "trailing": b'{"model": "m", "input": "x"} {}',
    "form": b"model=m&input=x",
}

WRONG: list[tuple[Json, str, str]] = [
    ({"model": None}, "model", "invalid_type"),
    ({"model": 3}, "model", "invalid_type"),
    ({"model": "a\0b"}, "model", "invalid_value"),
    ({"input": None}, "input", "missing_required_parameter"),
    ({"input": 3}, "input", "invalid_type"),
    ({"input": ""}, "input", "missing_required_parameter"),
    ({"input": []}, "input", "missing_required_parameter"),
    ({"input": [{"role": "user", "content": [{"type": 3}]}]}, "input[0].content[0].type", "invalid_type"),
    ({"background": "yes"}, "background", "invalid_type"),
    ({"max_output_tokens": 15}, "max_output_tokens", "integer_below_min_value"),
    ({"max_output_tokens": 16.5}, "max_output_tokens", "invalid_type"),
    ({"truncation": "middle"}, "truncation", "invalid_value"),
    ({"tools": [{"type": 3}]}, "tools[0].type", "invalid_type"),
    ({"tool_choice": 3}, "tool_choice", "invalid_type"),
    ({"text": {"format": {"type": 3}}}, "text.format.type", "invalid_type"),
    ({"reasoning": {"effort": 3}}, "reasoning.effort", "invalid_type"),
    ({"metadata": {"a": 1}}, "metadata.a", "invalid_type"),
    ({"metadata": {"a": "\0"}}, "metadata.a", "invalid_value"),
    ({"metadata": {str(n): "" for n in range(17)}}, "metadata", "object_above_max_properties"),
    ({"max_attempts": 0}, "max_attempts", "integer_below_min_value"),
    ({"max_attempts": 21}, "max_attempts", "integer_above_max_value"),
    ({"deadline_seconds": 0}, "deadline_seconds", "integer_below_min_value"),
    ({"on_unknown_outcome": "hope"}, "on_unknown_outcome", "invalid_value"),
    ({"priority": 10}, "priority", "integer_above_max_value"),
    ({"priority": -1}, "priority", "integer_below_min_value"),
    ({"run_at": -1}, "run_at", "integer_below_min_value"),
    ({"run_at": 1e18}, "run_at", "decimal_above_max_value"),
    ({"run_at": "tomorrow"}, "run_at", "invalid_type"),
    ({"webhook": {"url": "nowhere"}}, "webhook.url", "invalid_value"),
]


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_body_that_is_not_a_json_object_is_refused(tenant: Tenant, body: bytes) -> None:
    answer = tenant.http.post("/v1/responses", content=body)
    assert_error(answer, 400, code="invalid_json")
    assert tenant.ids() == []


@pytest.mark.parametrize(("fields", "param", "code"), WRONG, ids=[f"{p}={c}" for _, p, c in WRONG])
def test_a_wrong_field_is_named(tenant: Tenant, fields: Json, param: str, code: str) -> None:
    answer = tenant.http.post("/v1/responses", json={"model": MODEL, "input": "x", "background": True, **fields})
    assert_error(answer, 400, code=code, param=param)
    assert tenant.ids() == []


@pytest.mark.parametrize("missing", ["model", "input"])
def test_a_missing_field_is_named(tenant: Tenant, missing: str) -> None:
    body = {"model": MODEL, "input": "x", "background": True}
    del body[missing]
    answer = tenant.http.post("/v1/responses", json=body)
    assert_error(answer, 400, code="missing_required_parameter", param=missing)


def test_a_prompt_is_never_repeated_in_an_error(tenant: Tenant) -> None:
    secret = "a very private prompt"
    for fields in ({"input": {"text": secret}}, {"input": [secret]}, {"instructions": [secret]}):
        answer = tenant.http.post("/v1/responses", json={"model": MODEL, "input": secret, **fields})
        assert answer.status_code == 400
        assert secret not in answer.text


def too_large() -> Iterator[bytes]:
    yield b'{"model": "openai/o3-pro", "background": true, "input": "'
    for _ in range(11):
        yield MEGABYTE
    yield b'"}'


@pytest.mark.parametrize("way", ["content-length", "chunked"])
def test_eleven_megabytes_are_too_large(tenant: Tenant, way: str) -> None:
    content = b"".join(too_large()) if way == "content-length" else too_large()
    answer = tenant.http.post("/v1/responses", content=content)
    assert str(LIMIT) in assert_error(answer, 413, code="request_too_large")
    assert tenant.http.get("/v1/models").status_code == 200
    assert tenant.ids() == []


def test_an_endless_body_is_answered_before_it_ends(server: Server, tenant: Tenant) -> None:
    head = f"POST /v1/responses HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {tenant.secret}\r\n"
    chunk = b"f4240\r\n" + MEGABYTE + b"\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(head.encode() + b"transfer-encoding: chunked\r\n\r\n")
        for _ in range(11):
            connection.sendall(chunk)
        assert connection.recv(100).startswith(b"HTTP/1.1 413 ")


def test_a_declared_length_is_refused_before_a_byte_is_sent(server: Server, tenant: Tenant) -> None:
    head = f"POST /v1/responses HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {tenant.secret}\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(f"{head}content-length: {LIMIT + 1}\r\n\r\n".encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 413 ")


def test_the_size_limit_of_the_settings_is_exact(server: Server) -> None:
    settings = settings_for(server.settings.database, server.settings.redis, max_body_bytes=2048)
    with serve(settings) as strict, a_tenant(strict) as tenant:
        body = json.dumps({"model": MODEL, "background": True, "input": ""})
        exactly = body.replace('""', '"' + "x" * (2048 - len(body)) + '"').encode()
        assert len(exactly) == 2048
        for content, status in (
            (exactly, 200),
            (exactly + b" ", 413),
            (iter([exactly]), 200),
            (iter([exactly, b" "]), 413),
        ):
            assert tenant.http.post("/v1/responses", content=content).status_code == status


def test_a_client_that_disconnects_within_its_body_creates_no_job_and_logs_no_error(
    server: Server, tenant: Tenant
) -> None:
    head = f"POST /v1/responses HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {tenant.secret}\r\n"
    with capture_logs() as logged:
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
            connection.sendall(f"{head}content-length: 100\r\n\r\n{{".encode())
            await_until(lambda: server.uvicorn.server_state.tasks, 5, "the request never began")
        await_until(lambda: not server.uvicorn.server_state.tasks, 5, "the request never ended")
    assert logged == []
    assert tenant.ids() == []
