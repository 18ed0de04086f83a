"""One HTTP exchange with the provider: one request on one connection, and always a result to report."""

import ssl
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from time import monotonic
from typing import Any, Final
from urllib.parse import quote

import httpx
from pydantic import SecretStr

from jobs.cancel_reason import AbortReason
from jobs.clock import host_now
from jobs.encoding import to_text
from jobs.errors import ErrorKind, Failure
from jobs.job import CallReport
from jobs.model_catalog import Model
from jobs.resource_shortage import once_it_fits
from jobs.store.attempt_bodies import MOST_BYTES
from worker.provider.call_handle import CallHandle
from worker.provider.classify import classify
from worker.provider.httpx_clients import Fields, HttpxClients, headers_of
from worker.provider.transport_errors import TRANSPORT_ERRORS, failure_of, no_answer

JSON: Final = "application/json"
ACCEPT_JSON: Final = ("Accept", JSON)
CONNECT_SECONDS: Final = 10.0
WRITE_SECONDS: Final = 60.0
MAX_ANSWER_BYTES: Final = 64 * 1024 * 1024
KEPT_BYTES: Final = MOST_BYTES
"""Bytes that are read of an error's body, and kept of an answer that is too large."""
_PIECE_BYTES: Final = 64 * 1024


@dataclass(frozen=True)
class ExchangeResult:
    """A provider's HTTP response, read as far as possible. `fault` is the reason for which reading stopped early.

    `raw` is set if `body` was made of something else: then it is what was received. `is_broken` is true if the
    connection broke before the end of the body.
    """

    status: int
    headers: httpx.Headers
    body: bytes
    fault: Failure | None
    raw: bytes | None = None
    is_broken: bool = False

    @property
    def is_success(self) -> bool:
        """True if the status is 2xx and the body was read to its end."""
        return is_success(self.status) and self.fault is None


class ResponsesApi:
    """The Responses API of one provider, called with one key. Safe to use from any number of threads or greenlets."""

    def __init__(
        self,
        base_url: str,
        api_key: SecretStr | None,
        *,
        tls: ssl.SSLContext | None = None,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
        clock: Callable[[], datetime] = host_now,
    ) -> None:
        """Prepare calls to `{base_url}/responses`.

        `tls` is for providers whose certificate a private authority signed.

        Raises:
            SettingsError: the URL, the key or a proxy cannot be used.
        """
        self._clients = HttpxClients(base_url, api_key, tls)
        self._url = self._clients.url_of("responses")
        self.max_answer_bytes = max_answer_bytes
        self.clock = clock

    def call(
        self, body: Mapping[str, Any], *, request_id: str, seconds: float, handle: CallHandle, accept: str = JSON
    ) -> httpx.Request:
        """Build the request that creates a response. The call may last `seconds`."""
        content = to_text(body, ascii_only=False).encode()
        fields = [
            ("Accept", accept),
            ("Content-Type", JSON),
            ("Content-Length", str(len(content))),
            ("X-Client-Request-Id", request_id),
        ]
        return self._request("POST", self._url, fields, seconds, handle, _pieces(content))

    def fetch(self, response_id: str, *, seconds: float, handle: CallHandle) -> httpx.Request:
        """Build a request for a response that was created earlier."""
        return self._request("GET", self._url_of(response_id), [ACCEPT_JSON], seconds, handle)

    def cancel(self, response_id: str, *, seconds: float, handle: CallHandle) -> httpx.Request:
        """Build a request to cancel a response that was created earlier."""
        return self._request("POST", self._url_of(response_id, "/cancel"), [ACCEPT_JSON], seconds, handle)

    def delete(self, response_id: str, *, seconds: float, handle: CallHandle) -> httpx.Request:
        """Build a request to delete a response that was created earlier."""
        return self._request("DELETE", self._url_of(response_id), [ACCEPT_JSON], seconds, handle)

    def _url_of(self, response_id: str, verb: str = "") -> httpx.URL:
        return self._clients.url_of(f"responses/{quote(response_id, safe='')}{verb}")

    def _request(
        self,
        method: str,
        url: httpx.URL,
        fields: Fields,
        seconds: float,
        handle: CallHandle,
        content: Iterator[bytes] | None = None,
    ) -> httpx.Request:
        timeout = {
            "connect": min(CONNECT_SECONDS, seconds),
            "write": min(WRITE_SECONDS, seconds),
            "read": seconds,
            "pool": seconds,
        }
        return self._clients.request(method, url, fields, content, {"timeout": timeout, "trace": handle.trace})

    def exchange(
        self,
        request: httpx.Request,
        ends_at: float,
        handle: CallHandle,
        read: Callable[[httpx.Response, float, CallHandle], ExchangeResult],
    ) -> ExchangeResult | Failure:
        """Send a request. Return what `read` makes of the response, or the failure if there was no response."""
        client = self._clients.take()
        response = None
        try:
            response = client.send(request, stream=True)
            # httpx's read timeout is per read: for the body it starts anew, with what is left of the deadline
            request.extensions["timeout"]["read"] = max(ends_at - monotonic(), 0.001)
            return read(response, ends_at, handle)
        except httpx.ReadTimeout:  # its timeout is the deadline
            return deadline_exceeded()
        except TRANSPORT_ERRORS as error:
            return failure_of(error, handle)
        finally:
            handle.detach()
            if response is not None:
                response.close()
                # it and its stream refer to each other: 9 KB that only the garbage collector, which runs rarely, frees
                response.stream = httpx.ByteStream(b"")
            self._clients.give_back(client)

    def read_whole(self, response: httpx.Response, ends_at: float, handle: CallHandle) -> ExchangeResult:
        """Read a body to its end, or as far as possible."""
        limit = self.max_answer_bytes if is_success(response.status_code) else KEPT_BYTES
        chunks: list[bytes] = []
        size = 0
        fault = None
        is_broken = False
        try:
            for chunk in response.iter_bytes():
                chunks.append(chunk)
                size += len(chunk)
                if size > limit:
                    fault = too_large(limit)
                    break
                if disconnect_if_late(ends_at, handle):
                    fault = deadline_exceeded()
        except httpx.ReadTimeout:
            fault = deadline_exceeded()
        except TRANSPORT_ERRORS:
            is_broken = True  # a status says enough without its text, and a truncated answer shows that it is
        body = b"".join(chunks) if size <= limit else b"".join(chunks)[:KEPT_BYTES]
        return ExchangeResult(response.status_code, headers_of(response), body, fault, is_broken=is_broken)

    def report(self, result: ExchangeResult | Failure, handle: CallHandle, model: Model) -> CallReport:
        """Return what an exchange came to. A body counts if it can be read, else the reason why reading stopped."""
        ended = abort_failure(handle)
        if isinstance(result, Failure):
            return CallReport(ended or result)
        is_broken = result.is_broken or result.fault is not None
        classified = partial(classify, result.status, result.headers, result.body, model, is_broken=is_broken)
        report = once_it_fits(lambda: classified(now=self.clock()))
        fault = ended or result.fault
        if fault is not None and _is_unread(report):
            report = replace(report, result=replace(fault, http_status=result.status))
        if result.raw is not None:
            report = replace(report, raw=result.raw)
        return self._without_key(report)

    def _without_key(self, report: CallReport) -> CallReport:
        """Return `report` without our key, in case a gateway repeats it in an error."""
        failure = report.result
        key = self._clients.key
        if key and isinstance(failure, Failure) and key in failure.message:
            return replace(report, result=replace(failure, message=failure.message.replace(key, "[key]")))
        return report


def is_success(status: int) -> bool:
    """Return whether a status is 2xx."""
    return 200 <= status < 300


def disconnect_if_late(ends_at: float, handle: CallHandle) -> bool:
    """Return whether the deadline has passed. If so, disconnect: bytes that have arrived came in time, and count."""
    if monotonic() <= ends_at:
        return False
    handle.disconnect()
    return True


def abort_failure(handle: CallHandle) -> Failure | None:
    """Return the failure of a call that this process ended; None if it has not."""
    if handle.aborted is None:
        return None
    if handle.aborted is AbortReason.STALLED:
        return Failure(ErrorKind.INTERRUPTED, "The provider stopped sending in the middle of its answer.")
    if handle.aborted is AbortReason.CALL_DEADLINE:
        return deadline_exceeded()
    return no_answer(handle, f"This server ended the call ({handle.aborted}).")


def deadline_exceeded() -> Failure:
    """Return the failure of a call that exceeded its deadline."""
    return Failure(ErrorKind.CALL_DEADLINE, "The provider did not answer within the call's deadline.")


def too_large(limit: int) -> Failure:
    """Return the failure of a call whose answer is larger than `limit` bytes."""
    return Failure(ErrorKind.MALFORMED_ANSWER, f"The provider's answer is larger than {limit:,} bytes.")


def _is_unread(report: CallReport) -> bool:
    kinds = (ErrorKind.MALFORMED_ANSWER, ErrorKind.INTERRUPTED)
    return isinstance(report.result, Failure) and report.result.kind in kinds


def _pieces(content: bytes) -> Iterator[bytes]:
    """Yield `content` in pieces, so that nothing holds it once it is sent."""
    for start in range(0, len(content), _PIECE_BYTES):
        yield content[start : start + _PIECE_BYTES]
