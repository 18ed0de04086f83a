"""The provider over HTTP: one call, one request, one connection, and always a report.

httpx's connection pool costs O(n) per call and breaks down above a few thousand, so each call has a transport of its
own over one shared SSLContext. Its transports are used without its Client: that would follow redirects to where a key
must not go, keep cookies between tenants' calls, and read proxies and .netrc behind our back. HTTP/1.1 only, as one
lost TCP connection should cost one call.
"""

import json
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from importlib.metadata import PackageNotFoundError, version
from time import monotonic
from typing import Any, Final
from urllib.request import getproxies, proxy_bypass

import httpx
from pydantic import SecretStr

from jobs.errors import ErrorKind, Failure, SettingsError
from jobs.job import CallReport
from jobs.models import Model
from worker.provider.breakage import failure_of
from worker.provider.classify import classify
from worker.provider.line import AbortReason, Line

CONNECT_SECONDS: Final = 10.0
WRITE_SECONDS: Final = 60.0
MAX_ANSWER_BYTES: Final = 64 * 1024 * 1024
KEPT_BYTES: Final = 64 * 1024
"""How much is read of a refusal, and kept of an answer that is too large."""
_PIECE_BYTES: Final = 64 * 1024
_ONE_CALL: Final = httpx.Limits(max_connections=1, max_keepalive_connections=0)


@dataclass(frozen=True)
class _Received:
    """What came of an answer; `fault` says why we stopped reading it, if we did."""

    status: int
    headers: httpx.Headers
    body: bytes
    fault: Failure | None


class ProviderClient:
    """Sends calls to one provider. Safe to use from any number of threads or greenlets."""

    def __init__(
        self,
        base_url: str,
        api_key: SecretStr | None,
        *,
        tls: ssl.SSLContext | None = None,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
    ) -> None:
        """Prepare calls to `POST {base_url}/responses`.

        `tls` is for providers behind a private authority; else the usual ones are trusted, or those that
        SSL_CERT_FILE or SSL_CERT_DIR name. HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY are honoured.

        Raises:
            SettingsError: the URL, the key or the proxy cannot be used.
        """
        self._url = _responses_url(base_url)
        self._key = _usable_key(api_key)
        self._tls = tls or httpx.create_ssl_context()
        self._proxy = _proxy_for(self._url, self._tls)
        self._max_answer_bytes = max_answer_bytes
        self._headers = {
            "Accept": "application/json",
            "Accept-Encoding": "identity",  # small beside the minutes waited, and a cut body stays readable
            "Content-Type": "application/json",
            "User-Agent": f"backburner/{_version()}",
        }
        if self._key:
            self._headers["Authorization"] = f"Bearer {self._key}"

    def call(
        self, body: Mapping[str, Any], *, request_id: str, model: Model, deadline: timedelta, line: Line
    ) -> CallReport:
        """Send one request and wait for its end: an answer, a failure, `deadline`, or the line's abortion.

        Whatever the provider and the network do comes back as a report. An answer that had come in whole is
        reported even where the line was aborted meanwhile.
        """
        seconds = deadline.total_seconds()
        request = self._request(body, request_id, seconds, line)
        del body  # a prompt may be large, and the wait is long
        came = _ended_here(line) or self._exchange(request, monotonic() + seconds, line)
        ended_here = _ended_here(line)
        if isinstance(came, Failure):
            return CallReport(ended_here or came)
        return self._report(came, ended_here or came.fault, model)

    def _request(self, body: Mapping[str, Any], request_id: str, seconds: float, line: Line) -> httpx.Request:
        content = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
        headers = {**self._headers, "Content-Length": str(len(content)), "X-Client-Request-Id": request_id}
        timeout = httpx.Timeout(
            connect=min(CONNECT_SECONDS, seconds), write=min(WRITE_SECONDS, seconds), pool=5.0, read=seconds
        )
        extensions = {"timeout": timeout.as_dict(), "trace": line.trace}
        return httpx.Request("POST", self._url, headers=headers, content=_pieces(content), extensions=extensions)

    def _exchange(self, request: httpx.Request, ends_at: float, line: Line) -> _Received | Failure:
        """What came, or why nothing did."""
        transport = httpx.HTTPTransport(verify=self._tls, limits=_ONE_CALL, proxy=self._proxy)
        response = None
        try:
            response = transport.handle_request(request)
            # httpx's read timeout is per read; for the body it starts anew, with what is left of the deadline.
            request.extensions["timeout"]["read"] = max(ends_at - monotonic(), 0.001)
            return self._read(response, ends_at)
        except httpx.ReadTimeout:  # as long as the deadline
            return _overdue()
        except (httpx.HTTPError, OSError) as error:
            return failure_of(error, sent=line.sent)
        finally:
            line.end()
            if response is not None:
                response.close()
            transport.close()

    def _read(self, response: httpx.Response, ends_at: float) -> _Received:
        limit = self._max_answer_bytes if response.is_success else KEPT_BYTES
        chunks: list[bytes] = []
        size = 0
        fault = None
        try:
            for chunk in response.iter_bytes():
                chunks.append(chunk)
                size += len(chunk)
                if size > limit:
                    fault = _too_large(limit)
                    break
                if monotonic() > ends_at:
                    fault = _overdue()
                    break
        except httpx.ReadTimeout:
            fault = _overdue()
        except (httpx.HTTPError, OSError):
            pass  # a refusal is one even when its text was cut, and an answer that was cut shows it
        body = b"".join(chunks)
        return _Received(response.status_code, response.headers, body if size <= limit else body[:KEPT_BYTES], fault)

    def _report(self, received: _Received, fault: Failure | None, model: Model) -> CallReport:
        """What came in counts as far as it can be read; what ended the reading counts where it cannot."""
        report = classify(received.status, received.headers, received.body, model, now=datetime.now(UTC))
        if fault is not None and _is_malformed(report):
            report = replace(report, result=replace(fault, http_status=received.status))
        return self._without_key(report)

    def _without_key(self, report: CallReport) -> CallReport:
        """`report`, should a gateway have repeated our key to us."""
        failure = report.result
        if self._key and isinstance(failure, Failure) and self._key in failure.message:
            return replace(report, result=replace(failure, message=failure.message.replace(self._key, "[key]")))
        return report


def _ended_here(line: Line) -> Failure | None:
    if line.aborted is None:
        return None
    if line.aborted is AbortReason.CALL_DEADLINE:
        return _overdue()
    kind = ErrorKind.INTERRUPTED if line.sent else ErrorKind.UNREACHABLE
    return Failure(kind, f"The call was ended on our side ({line.aborted}).")


def _overdue() -> Failure:
    return Failure(ErrorKind.CALL_DEADLINE, "The provider did not answer within the call's deadline.")


def _too_large(limit: int) -> Failure:
    return Failure(ErrorKind.MALFORMED_ANSWER, f"The provider's answer is larger than {limit:,} bytes.")


def _is_malformed(report: CallReport) -> bool:
    return isinstance(report.result, Failure) and report.result.kind is ErrorKind.MALFORMED_ANSWER


def _pieces(content: bytes) -> Iterator[bytes]:
    """`content` piece by piece; nothing holds it once it is sent."""
    for start in range(0, len(content), _PIECE_BYTES):
        yield content[start : start + _PIECE_BYTES]


def _responses_url(base_url: str) -> httpx.URL:
    try:
        url = httpx.URL(f"{base_url.rstrip('/')}/responses")
        url.host.encode("idna")  # as the resolver will; a label may be too long for it
    except (httpx.InvalidURL, UnicodeError):
        raise SettingsError("BACKBURNER_PROVIDER_BASE_URL is not a usable URL") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise SettingsError("BACKBURNER_PROVIDER_BASE_URL is not a usable URL")
    return url


def _usable_key(api_key: SecretStr | None) -> str:
    key = "" if api_key is None else api_key.get_secret_value().strip()
    if not (key.isascii() and key.isprintable()):
        raise SettingsError("BACKBURNER_PROVIDER_API_KEY holds characters that cannot stand in an HTTP header")
    return key


def _proxy_for(url: httpx.URL, tls: ssl.SSLContext) -> httpx.Proxy | None:
    """The proxy that the environment names for `url`, read once; httpx reads it for its Client alone."""
    proxies = getproxies()
    address = proxies.get(url.scheme) or proxies.get("all")
    host = url.host if url.port is None else f"{url.host}:{url.port}"
    if not address or proxy_bypass(host):
        return None
    try:
        place = httpx.URL(address if "://" in address else f"http://{address}")
    except httpx.InvalidURL:
        place = httpx.URL()
    if place.scheme not in ("http", "https") or not place.host:
        raise SettingsError("HTTPS_PROXY, HTTP_PROXY or ALL_PROXY names no usable http:// or https:// proxy")
    return httpx.Proxy(place, ssl_context=tls if place.scheme == "https" else None)


def _version() -> str:
    try:
        return version("backburner")
    except PackageNotFoundError:  # run from a source tree that was not installed
        return "0"
