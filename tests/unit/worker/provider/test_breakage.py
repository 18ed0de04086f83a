"""Broken connections, in our words."""

import errno
import os
import socket
import ssl

import httpx
import pytest

from jobs.errors import ErrorKind
from worker.provider.breakage import failure_of

SECRET = "https://user:secret@host/v1"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (httpx.ConnectError(SECRET), ErrorKind.UNREACHABLE),
        (httpx.ConnectTimeout(SECRET), ErrorKind.UNREACHABLE),
        (httpx.ProxyError(SECRET), ErrorKind.UNREACHABLE),
        (httpx.UnsupportedProtocol(SECRET), ErrorKind.UNREACHABLE),
        (httpx.LocalProtocolError(SECRET), ErrorKind.UNREACHABLE),
        (httpx.WriteError(SECRET), ErrorKind.UNREACHABLE),
        (httpx.WriteTimeout(SECRET), ErrorKind.UNREACHABLE),
        (httpx.ReadError(SECRET), ErrorKind.INTERRUPTED),
        (httpx.ReadTimeout(SECRET), ErrorKind.INTERRUPTED),
        (httpx.RemoteProtocolError("Server disconnected without sending a response."), ErrorKind.INTERRUPTED),
        (httpx.DecodingError(SECRET), ErrorKind.INTERRUPTED),
        (OSError(errno.EMFILE, SECRET), ErrorKind.INTERRUPTED),
    ],
)
def test_kinds(error: Exception, kind: ErrorKind) -> None:
    found = failure_of(error)
    assert found.kind is kind
    assert "secret" not in found.message
    assert found.message.endswith(".")
    assert failure_of(error, sent=False).kind is ErrorKind.UNREACHABLE


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
    found = failure_of(error)
    assert says in found.message
    assert "secret" not in found.message


def test_the_systems_words_are_its_own() -> None:
    assert os.strerror(errno.EMFILE).lower() in failure_of(OSError(errno.EMFILE, SECRET)).message
