"""How a connection broke, told from httpx's exceptions, in words of our own.

Exceptions' own texts are not repeated: they may name URLs with credentials in them.
"""

import os
import socket
import ssl
from collections.abc import Iterator

import httpx

from jobs.errors import ErrorKind, Failure

BREAKS = (httpx.TransportError, httpx.DecodingError, OSError)
"""All that an exchange raises when its connection breaks."""

_NEVER_SENT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
    httpx.LocalProtocolError,
    # The kernel did not take the last of the request, so the provider holds a part of it at most.
    httpx.WriteError,
    httpx.WriteTimeout,
)


def failure_of(error: Exception, *, sent: bool = True) -> Failure:
    """What a broken exchange came to; `sent` says whether the whole request had been handed to the network.

    A request of which the provider cannot hold the end was not run. After that nobody knows, and a server that
    hangs up without a word may have run it all the same.
    """
    if isinstance(error, _NEVER_SENT) or not sent:
        return Failure(ErrorKind.UNREACHABLE, f"The provider could not be reached: {_reason(error)}.")
    return Failure(ErrorKind.INTERRUPTED, f"The connection to the provider broke before its answer: {_reason(error)}.")


def _reason(error: Exception) -> str:
    for each in _causes(error):
        match each:
            case ssl.SSLCertVerificationError():
                return f"its certificate is not trusted ({each.verify_message})"
            case ssl.SSLError():
                return "the TLS connection failed"
            case socket.gaierror():
                return "its name was not resolved"
            case TimeoutError():
                return _TIMEOUTS.get(type(error), "it timed out")
            case OSError() if each.errno:
                return os.strerror(each.errno).lower()
    return _WORDS.get(type(error), "the connection failed")


_TIMEOUTS: dict[type[Exception], str] = {
    httpx.ConnectTimeout: "connecting took too long",
    httpx.WriteTimeout: "it did not take the request in time",
    httpx.ReadTimeout: "it stayed silent for too long",
}
_WORDS: dict[type[Exception], str] = {
    **_TIMEOUTS,
    httpx.ProxyError: "the proxy refused to connect",
    httpx.UnsupportedProtocol: "its URL has an unsupported protocol",
    httpx.LocalProtocolError: "the request could not be put into HTTP",
    httpx.RemoteProtocolError: "it hung up, or sent what is not HTTP",
    httpx.DecodingError: "its answer could not be decompressed",
}


def _causes(error: BaseException) -> Iterator[BaseException]:
    """`error` and what it was raised from, outermost first."""
    each: BaseException | None = error
    while each is not None:
        yield each
        each = each.__cause__ or each.__context__
