"""The httpx clients that call one provider: each for a few calls at once, all over one TLS context.

A client's pool looks at every connection it holds whenever a call begins or ends, so that one client for thousands of
calls would do little else (decision 0008). Proxies, certificates, the base URL's query and decoding are httpx's
business. HTTP/1.1 only, as one lost TCP connection should cost one call.
"""

import ssl
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

import httpx
from pydantic import SecretStr

from jobs.errors import SettingsError
from worker.provider.proxies import proxy_for, unusable

CALLS_EACH: Final = 5
"""Calls in flight for each client, which takes 3 KB. Each costs every other's beginning and end 1 µs: decision 0008."""
UNLIMITED: Final = httpx.Limits(max_connections=None)
ALL_HEADERS: Final = "all_headers"
"""The extension of a redirect in which its header fields are whole."""

Fields = list[tuple[str, str]]
"""Header fields as they are sent."""


class HttpxClients:
    """As many clients as the calls in flight need. Safe to use from any number of threads or greenlets."""

    def __init__(self, base_url: str, api_key: SecretStr | None, tls: ssl.SSLContext | None = None) -> None:
        """Prepare calls below `base_url`, whose query every URL gets.

        `tls` is for providers behind a private authority; else the usual ones are trusted, or those that
        SSL_CERT_FILE or SSL_CERT_DIR name. HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY are honoured.

        Raises:
            SettingsError: the URL, the key or a proxy cannot be used.
        """
        self.key = _usable_key(api_key)
        self._base = _usable_url(base_url)
        if self.key:  # else httpx makes an Authorization of the URL's user and password
            self._base = self._base.copy_with(username="", password="")
        self._tls = tls or httpx.create_ssl_context()
        self._proxy = proxy_for(self._base, self._tls)
        try:
            self._first = self._make()
        except (httpx.InvalidURL, ValueError):
            raise unusable() from None
        self._free = [self._first] * CALLS_EACH
        self._fields: Fields = [
            ("Accept-Encoding", "identity"),  # small beside the minutes waited, and a cut body stays readable
            ("Connection", "close"),  # no connection is used twice
            ("User-Agent", f"backburner/{_version()}"),
        ]
        if self.key:
            self._fields.append(("Authorization", f"Bearer {self.key}"))

    def url_of(self, path: str) -> httpx.URL:
        """The URL of `path` below the base URL."""
        return self._first.build_request("GET", path).url

    def request(
        self, method: str, url: httpx.URL, fields: Fields, content: Iterator[bytes] | None, extensions: dict[str, Any]
    ) -> httpx.Request:
        """A request for what `url_of` gave.

        It is made here and not by a client: one client's settings merged with each request's cost a twentieth of a
        call's CPU.
        """
        return httpx.Request(method, url, headers=[*self._fields, *fields], content=content, extensions=extensions)

    def take(self) -> httpx.Client:
        """A client with room for one more call, to be given back after it."""
        try:
            return self._free.pop()
        except IndexError:
            client = self._make()
            self._free.extend([client] * (CALLS_EACH - 1))
            return client

    def give_back(self, client: httpx.Client) -> None:
        """The call that `client` was taken for is over."""
        self._free.append(client)

    def _make(self) -> httpx.Client:
        return CookielessClient(
            base_url=self._base.copy_with(query=None, fragment=None),
            params=self._base.params,
            verify=self._tls,
            proxy=self._proxy,
            trust_env=False,  # of it we take the authorities and the proxy ourselves
            limits=UNLIMITED,
            event_hooks={"response": [_lay_aside_target]},
        )


class NoCookies(httpx.Cookies):
    """Keeps nothing."""

    def extract_cookies(self, response: httpx.Response) -> None:
        """Leave a response's cookies alone; to look for them would take a twentieth of a call's CPU."""


class CookielessClient(httpx.Client):
    """httpx's client without cookies: one tenant's is not to come with another's call."""

    cookies = NoCookies()  # type: ignore[override]  # nobody sets any


def headers_of(response: httpx.Response) -> httpx.Headers:
    """Its header fields, a redirect's target among them."""
    headers: httpx.Headers = response.extensions.get(ALL_HEADERS, response.headers)
    return headers


def _lay_aside_target(response: httpx.Response) -> None:
    """Hide where a redirect leads: httpx reads it even if it is not to go there, and fails where it is no URL."""
    if "location" in response.headers:
        response.extensions[ALL_HEADERS] = response.headers.copy()
        del response.headers["location"]


def _usable_url(base_url: str) -> httpx.URL:
    try:
        url = httpx.URL(base_url)
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


def _version() -> str:
    try:
        return version("backburner")
    except PackageNotFoundError:  # run from a source tree that was not installed
        return "0"
