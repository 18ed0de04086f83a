"""One exchange with the provider over HTTP: one request on one connection, and always something to report.

Each call has a connection of its own over one shared SSLContext: httpcore's, on which httpx stands. A pool of them
costs O(n) per call and breaks down above a few thousand; httpx's Client would follow redirects to where a key must not
go, keep cookies between tenants' calls, and read proxies and .netrc behind our back; and either would be held for
minutes (decision 0080). HTTP/1.1 only, as one lost TCP connection should cost one call.
"""

import ssl
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from time import monotonic
from typing import Any, Final, cast
from urllib.parse import quote
from urllib.request import getproxies, proxy_bypass

import httpcore
import httpx
from pydantic import SecretStr

from jobs.encoding import to_text
from jobs.errors import ErrorKind, Failure, SettingsError
from jobs.job import CallReport
from jobs.models import Model
from jobs.store.attempt_bodies import MOST_BYTES
from worker.provider.breakage import BREAKS, failure_of
from worker.provider.classify import classify
from worker.provider.line import AbortReason, Line
from worker.provider.network import UNREAD, BriefBackend

JSON: Final = "application/json"
CONNECT_SECONDS: Final = 10.0
WRITE_SECONDS: Final = 60.0
MAX_ANSWER_BYTES: Final = 64 * 1024 * 1024
KEPT_BYTES: Final = MOST_BYTES
"""How much is read of a refusal, and kept of an answer that is too large."""
_PIECE_BYTES: Final = 64 * 1024

Fields = list[tuple[bytes, bytes]]
"""Header fields as they are sent."""


@dataclass(frozen=True)
class Received:
    """What came of an answer; `fault` says why we stopped reading it, if we did.

    `raw` is what was sent, where `body` is only made of it. `is_broken` says that the connection broke.
    """

    status: int
    headers: httpx.Headers
    body: bytes
    fault: Failure | None
    raw: bytes | None = None
    is_broken: bool = False

    @property
    def is_success(self) -> bool:
        """Whether it came with a 2xx and in whole."""
        return is_success(self.status) and self.fault is None


class Endpoint:
    """One provider: where it is and what key opens it. Safe to use from any number of threads or greenlets."""

    def __init__(
        self,
        base_url: str,
        api_key: SecretStr | None,
        *,
        tls: ssl.SSLContext | None = None,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
    ) -> None:
        """Prepare exchanges with `{base_url}/responses`.

        `tls` is for providers behind a private authority; else the usual ones are trusted, or those that
        SSL_CERT_FILE or SSL_CERT_DIR name. HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY are honoured.

        Raises:
            SettingsError: the URL, the key or the proxy cannot be used.
        """
        url = _responses_url(base_url)
        self._url = httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
        self._key = _usable_key(api_key)
        tls = tls or httpx.create_ssl_context()
        # never used as a pool: it knows what kind of connection leads there, through which proxy
        self._ways = httpcore.ConnectionPool(tls, proxy=_proxy_for(url, tls), network_backend=BriefBackend())
        self.max_answer_bytes = max_answer_bytes
        self._fields: Fields = [
            (b"Host", url.netloc),
            (b"Accept-Encoding", b"identity"),  # small beside the minutes waited, and a cut body stays readable
            (b"User-Agent", f"backburner/{_version()}".encode()),
        ]
        if self._key:
            self._fields.append((b"Authorization", f"Bearer {self._key}".encode()))

    def call(
        self, body: Mapping[str, Any], *, request_id: str, seconds: float, line: Line, accept: str = JSON
    ) -> httpcore.Request:
        """A request that buys an answer; it may take `seconds`."""
        content = to_text(body, ascii_only=False).encode()
        fields = [
            (b"Accept", accept.encode()),
            (b"Content-Type", JSON.encode()),
            (b"Content-Length", str(len(content)).encode()),
            (b"X-Client-Request-Id", request_id.encode()),
        ]
        return self._request(b"POST", self._url, fields, _pieces(content), seconds, line)

    def fetch(self, response_id: str, *, seconds: float, line: Line) -> httpcore.Request:
        """A request for a response that was bought before."""
        return self._request(b"GET", self._url_of(response_id), [(b"Accept", JSON.encode())], None, seconds, line)

    def cancel(self, response_id: str, *, seconds: float, line: Line) -> httpcore.Request:
        """A request to stop making a response that was bought before."""
        fields = [(b"Accept", JSON.encode()), (b"Content-Length", b"0")]
        return self._request(b"POST", self._url_of(response_id, "/cancel"), fields, None, seconds, line)

    def delete(self, response_id: str, *, seconds: float, line: Line) -> httpcore.Request:
        """A request to delete a response that was bought before."""
        return self._request(b"DELETE", self._url_of(response_id), [(b"Accept", JSON.encode())], None, seconds, line)

    def _url_of(self, response_id: str, verb: str = "") -> httpcore.URL:
        url = self._url
        target = url.target + f"/{quote(response_id, safe='')}{verb}".encode()
        return httpcore.URL(scheme=url.scheme, host=url.host, port=url.port, target=target)

    def _request(
        self,
        method: bytes,
        url: httpcore.URL,
        fields: Fields,
        content: Iterator[bytes] | None,
        seconds: float,
        line: Line,
    ) -> httpcore.Request:
        timeout = {"connect": min(CONNECT_SECONDS, seconds), "write": min(WRITE_SECONDS, seconds), "read": seconds}
        extensions = {"timeout": timeout, "trace": line.trace}
        return httpcore.Request(method, url, headers=[*self._fields, *fields], content=content, extensions=extensions)

    def exchange(
        self,
        request: httpcore.Request,
        ends_at: float,
        line: Line,
        read: Callable[[httpcore.Response, float], Received],
    ) -> Received | Failure:
        """What `read` made of the answer, or why there was none."""
        connection = self._ways.create_connection(self._url.origin)
        response = None
        try:
            response = connection.handle_request(request)
            request.headers.clear()  # sent, and needed by nobody through the minutes that a body may take
            # httpcore's read timeout is per read; for the body it starts anew, with what is left of the deadline.
            request.extensions["timeout"]["read"] = max(ends_at - monotonic(), 0.001)
            return read(response, ends_at)
        except httpcore.ReadTimeout:  # as long as the deadline
            return overdue()
        except BREAKS as error:
            return failure_of(error, sent=line.sent)
        finally:
            line.let_go()
            if response is not None:
                response.close()
            connection.close()

    def read_whole(self, response: httpcore.Response, ends_at: float) -> Received:
        """Read a body to its end, or as far as it can be read."""
        limit = self.max_answer_bytes if is_success(response.status) else KEPT_BYTES
        chunks: list[bytes] = []
        size = 0
        fault = None
        is_broken = False
        try:
            for chunk in chunks_of(response):
                chunks.append(chunk)
                size += len(chunk)
                if size > limit:
                    fault = too_large(limit)
                    break
                if is_late(response, ends_at):
                    fault = overdue()
                    break
        except httpcore.ReadTimeout:
            fault = overdue()
        except BREAKS:
            is_broken = True  # a refusal is one even when its text was cut, and an answer that was cut shows it
        body = b"".join(chunks) if size <= limit else b"".join(chunks)[:KEPT_BYTES]
        return Received(response.status, headers_of(response), body, fault, is_broken=is_broken)

    def report(self, came: Received | Failure, line: Line, model: Model) -> CallReport:
        """What came in counts as far as it can be read; what ended the reading counts where it cannot."""
        ended = ended_here(line)
        if isinstance(came, Failure):
            return CallReport(ended or came)
        is_broken = came.is_broken or came.fault is not None
        report = classify(came.status, came.headers, came.body, model, now=datetime.now(UTC), is_broken=is_broken)
        fault = ended or came.fault
        if fault is not None and _is_unread(report):
            report = replace(report, result=replace(fault, http_status=came.status))
        if came.raw is not None:
            report = replace(report, raw=came.raw)
        return self._without_key(report)

    def _without_key(self, report: CallReport) -> CallReport:
        """`report`, should a gateway have repeated our key to us."""
        failure = report.result
        if self._key and isinstance(failure, Failure) and self._key in failure.message:
            return replace(report, result=replace(failure, message=failure.message.replace(self._key, "[key]")))
        return report


def is_success(status: int) -> bool:
    """Whether an answer is what was asked for."""
    return 200 <= status < 300


def headers_of(response: httpcore.Response) -> httpx.Headers:
    """Its header fields, found by names in any case."""
    return httpx.Headers(response.headers)


def chunks_of(response: httpcore.Response) -> Iterable[bytes]:
    """The body as it comes, decoded where the provider encodes it although it was asked not to.

    Each generator between here and the socket is held, with its stack, by a call that waits for its body: 0076.
    """
    body = cast("Iterable[bytes]", response.stream)
    if "content-encoding" in headers_of(response):
        return httpx.Response(response.status, headers=response.headers, content=body).iter_bytes()
    return body


def is_late(response: httpcore.Response, ends_at: float) -> bool:
    """Whether to read no more. What has come already was in time, however late it is read."""
    return monotonic() > ends_at and not response.extensions["network_stream"].get_extra_info(UNREAD)


def ended_here(line: Line) -> Failure | None:
    """What a call came to that was ended on our side; None while it was not."""
    if line.aborted is None:
        return None
    if line.aborted is AbortReason.STALLED:
        return Failure(ErrorKind.INTERRUPTED, "The provider fell silent amid its answer.")
    if line.aborted is AbortReason.CALL_DEADLINE:
        return overdue()
    kind = ErrorKind.INTERRUPTED if line.sent else ErrorKind.UNREACHABLE
    return Failure(kind, f"The call was ended on our side ({line.aborted}).")


def overdue() -> Failure:
    """What a call came to that lasted too long."""
    return Failure(ErrorKind.CALL_DEADLINE, "The provider did not answer within the call's deadline.")


def too_large(limit: int) -> Failure:
    """What a call came to whose answer is beyond all measure."""
    return Failure(ErrorKind.MALFORMED_ANSWER, f"The provider's answer is larger than {limit:,} bytes.")


def _is_unread(report: CallReport) -> bool:
    kinds = (ErrorKind.MALFORMED_ANSWER, ErrorKind.INTERRUPTED)
    return isinstance(report.result, Failure) and report.result.kind in kinds


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


def _proxy_for(url: httpx.URL, tls: ssl.SSLContext) -> httpcore.Proxy | None:
    """The proxy that the environment names for `url`, read once; httpx reads it for its Client alone."""
    proxies = getproxies()
    address = proxies.get(url.scheme) or proxies.get("all")
    host = url.host if url.port is None else f"{url.host}:{url.port}"
    if not address or proxy_bypass(host):
        return None
    try:
        place = httpx.URL(address if "://" in address else f"http://{address}")
        place.host.encode("idna")  # as the resolver will
    except (httpx.InvalidURL, UnicodeError):
        place = httpx.URL()
    if place.scheme not in ("http", "https") or not place.host:
        raise SettingsError("HTTPS_PROXY, HTTP_PROXY or ALL_PROXY names no usable http:// or https:// proxy")
    return httpcore.Proxy(
        httpcore.URL(scheme=place.raw_scheme, host=place.raw_host, port=place.port, target=place.raw_path),
        auth=(place.username.encode(), place.password.encode()) if place.username or place.password else None,
        ssl_context=tls if place.scheme == "https" else None,
    )


def _version() -> str:
    try:
        return version("backburner")
    except PackageNotFoundError:  # run from a source tree that was not installed
        return "0"
