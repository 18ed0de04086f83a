"""A WebSocket handshake is refused at once, in OpenAI's error shape, with a pointer to HTTP."""

import json
import logging
import socket
from collections.abc import Iterator

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.http11 import Response
from websockets.sync.client import connect

from tests.api.world import Json, Server, Tenant, assert_error
from tests.support.waiting import await_until

pytestmark = pytest.mark.one_database

HANDSHAKE = {
    "connection": "Upgrade",
    "upgrade": "websocket",
    "sec-websocket-version": "13",
    "sec-websocket-key": "AAAAAAAAAAAAAAAAAAAAAA==",
}


@pytest.fixture(autouse=True)
def silent(server: Server, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Assert that uvicorn logs nothing."""
    with caplog.at_level(logging.WARNING):
        yield
        await_until(lambda: not server.uvicorn.server_state.tasks, 5, "a handshake never ended")
    assert [each.getMessage() for phase in ("call", "teardown") for each in caplog.get_records(phase)] == []


def refused(server: Server, path: str, secret: str | None) -> Response:
    headers = {} if secret is None else {"authorization": f"Bearer {secret}", "openai-beta": "responses_websockets"}
    url = f"ws://127.0.0.1:{server.port}{path}"
    with pytest.raises(InvalidStatus) as error, connect(url, additional_headers=headers, proxy=None):
        pass
    return error.value.response


def error_of(response: Response) -> Json:
    body: Json = json.loads(response.body or b"")
    assert body.keys() == {"error"}
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"].startswith("req_")
    assert response.headers["x-should-retry"] == "false"
    error: Json = body["error"]
    return error


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/responses/", "/v1/responses?model=openai/o3-pro"])
@pytest.mark.parametrize("has_key", [True, False])
def test_a_handshake_for_responses_is_answered_426(server: Server, tenant: Tenant, path: str, has_key: bool) -> None:
    response = refused(server, path, tenant.secret if has_key else None)
    assert response.status_code == 426
    assert "upgrade" not in response.headers
    error = error_of(response)
    assert (error["type"], error["code"], error["param"]) == ("invalid_request_error", "websocket_not_supported", None)
    assert "HTTP" in error["message"]


@pytest.mark.parametrize("path", ["/", "/v1/realtime", "/v1/responses/resp_1", "/healthz"])
def test_a_handshake_for_anything_else_is_answered_404(server: Server, tenant: Tenant, path: str) -> None:
    response = refused(server, path, tenant.secret)
    assert response.status_code == 404
    assert f"GET {path}" in error_of(response)["message"]


def test_a_raw_handshake_is_answered_and_its_connection_closed(server: Server) -> None:
    head = "".join(f"{name}: {value}\r\n" for name, value in HANDSHAKE.items())
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(f"GET /v1/responses HTTP/1.1\r\nhost: x\r\n{head}\r\n".encode())
        answer = b"".join(iter(lambda: connection.recv(65_536), b""))
    assert answer.startswith(b"HTTP/1.1 426 ")
    assert answer.count(b"HTTP/1.1") == 1
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "websocket_not_supported"


def test_a_handshake_without_upgrade_header_after_a_proxy_is_answered_426(server: Server, tenant: Tenant) -> None:
    left = {name: value for name, value in HANDSHAKE.items() if name.startswith("sec-")}
    answer = tenant.http.get("/v1/responses", headers=left)
    assert_error(answer, 426, code="websocket_not_supported")
    assert tenant.http.get("/v1/responses").status_code == 200
    assert httpx.get(f"{server.url}/healthz", headers=left).status_code == 200
