"""How a connection broke, told from httpx's exceptions, in words of our own.

Exceptions' own texts are not repeated: they may name URLs with credentials in them.
"""

import os
import socket
import ssl
from dataclasses import replace

import httpx

from jobs.errors import ErrorKind, Failure
from jobs.resource_shortage import causes, shortage_of
from worker.provider.call_handle import CallHandle

BREAKS = (httpx.TransportError, httpx.DecodingError, OSError)
"""All that an exchange raises when its connection breaks."""


def without_answer(handle: CallHandle, unsent: str, sent: str | None = None) -> Failure:
    """What a call came to that brought nothing: it cost nothing if it was never sent, else nobody knows.

    A server that hangs up without a word may have run the request all the same. `sent` are the words for that, where
    they differ.
    """
    if handle.never_sent:
        return Failure(ErrorKind.UNREACHABLE, unsent)
    return Failure(ErrorKind.INTERRUPTED, unsent if sent is None else sent)


def failure_of(error: Exception, handle: CallHandle) -> Failure:
    """What a broken exchange came to."""
    reason = _reason(error)
    failure = without_answer(
        handle,
        f"The provider could not be reached: {reason}.",
        f"The connection to the provider broke before its answer: {reason}.",
    )
    return replace(failure, shortage=shortage_of(error), breakage=reason) if handle.never_sent else failure


def _reason(error: Exception) -> str:
    for each in causes(error):
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
