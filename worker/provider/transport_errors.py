"""Descriptions of transport errors, made of httpx's exceptions in words of our own.

The exceptions' own texts are not repeated: they may hold URLs with credentials.
"""

import os
import socket
import ssl
from dataclasses import replace

import httpx

from jobs.errors import ErrorKind, Failure
from jobs.resource_shortage import causes, shortage_of
from worker.provider.call_handle import CallHandle

TRANSPORT_ERRORS = (httpx.TransportError, httpx.DecodingError, OSError)
"""All errors that an exchange raises when its connection breaks."""


def no_answer(handle: CallHandle, unsent: str, sent: str | None = None) -> Failure:
    """Return the failure of a call without an answer: free if the request was never sent, else of unknown cost.

    A server that closes the connection without a reply may have run the request all the same. `unsent` and `sent` are
    the two messages; without `sent` there is only one.
    """
    if handle.never_sent:
        return Failure(ErrorKind.UNREACHABLE, unsent)
    return Failure(ErrorKind.INTERRUPTED, unsent if sent is None else sent)


def failure_of(error: Exception, handle: CallHandle) -> Failure:
    """Return the failure of an exchange that raised `error`."""
    reason = _reason(error)
    failure = no_answer(
        handle,
        f"The provider could not be reached: {reason}.",
        f"The connection to the provider broke before its answer: {reason}.",
    )
    return replace(failure, shortage=shortage_of(error), unreachable_reason=reason) if handle.never_sent else failure


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
    httpx.WriteTimeout: "it did not accept the request in time",
    httpx.ReadTimeout: "it sent nothing for too long",
}
_WORDS: dict[type[Exception], str] = {
    **_TIMEOUTS,
    httpx.ProxyError: "the proxy refused to connect",
    httpx.UnsupportedProtocol: "its URL has an unsupported protocol",
    httpx.LocalProtocolError: "the request is not valid HTTP",
    httpx.RemoteProtocolError: "it closed the connection, or sent no valid HTTP",
    httpx.DecodingError: "its answer could not be decompressed",
}
