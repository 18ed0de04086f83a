"""Transport errors, described in our words."""

import errno
import os
import socket
import ssl

import httpcore
import httpx
import pytest

from jobs.errors import ErrorKind
from worker.provider.call_handle import CallHandle
from worker.provider.transport_errors import failure_of

SECRET = "https://user:secret@host/v1"


@pytest.mark.parametrize(
    "error",
    [
        httpx.ConnectError(SECRET),
        httpx.ConnectTimeout(SECRET),
        httpx.ProxyError(SECRET),
        httpx.UnsupportedProtocol(SECRET),
        httpx.LocalProtocolError(SECRET),
        httpx.WriteError(SECRET),
        httpx.WriteTimeout(SECRET),
        httpx.ReadError(SECRET),
        httpx.ReadTimeout(SECRET),
        httpx.RemoteProtocolError("Server disconnected without sending a response."),
        httpx.DecodingError(SECRET),
        OSError(errno.EMFILE, SECRET),
    ],
)
def test_only_the_handle_decides_whether_anything_was_sent(error: Exception) -> None:
    for handle, kind in ((CallHandle(), ErrorKind.UNREACHABLE), (_begun(), ErrorKind.INTERRUPTED)):
        found = failure_of(error, handle)
        assert found.kind is kind
        assert "secret" not in found.message
        assert found.message.endswith(".")


def _begun() -> CallHandle:
    handle = CallHandle()
    handle.trace("http11.send_request_headers.started", {"request": httpcore.Request("POST", "https://host/v1")})
    return handle


@pytest.mark.parametrize(
    ("cause", "says"),
    [
        (socket.gaierror(socket.EAI_NONAME, SECRET), "its name was not resolved"),
        (ConnectionRefusedError(errno.ECONNREFUSED, SECRET), "connection refused"),
        (OSError(errno.EMFILE, SECRET), "too many open files"),
        (TimeoutError(SECRET), "connecting took too long"),
        (ssl.SSLError(1, SECRET), "the TLS connection failed"),
        (ValueError(SECRET), "the connection failed"),
    ],
)
def test_reasons_come_from_the_cause(cause: Exception, says: str) -> None:
    error = (httpx.ConnectTimeout if isinstance(cause, TimeoutError) else httpx.ConnectError)(SECRET)
    error.__cause__ = cause
    found = failure_of(error, CallHandle())
    assert says in found.message
    assert "secret" not in found.message


def test_system_errors_have_the_systems_words() -> None:
    assert os.strerror(errno.EMFILE).lower() in failure_of(OSError(errno.EMFILE, SECRET), CallHandle()).message
