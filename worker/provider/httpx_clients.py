"""The httpx clients that call one provider. Each makes a few calls at once; all share one TLS context.

A client's pool checks every connection that it holds whenever a call begins or ends. One client for thousands of calls
would do little else (decision 0007). httpx handles proxies, certificates, the base URL's query and decoding. Only
HTTP/1.1 is used: one lost TCP connection costs one call.
"""

import ssl
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

import httpx
from pydantic import SecretStr

from jobs.errors import SettingsError
from worker.provider.proxies import proxy_for, unusable_proxy

CALLS_EACH: Final = 5
"""Calls in flight per client, which takes 3 KB. Each adds 1 µs to every other's start and end: decision 0007."""
UNLIMITED: Final = httpx.Limits(max_connections=None)
ALL_HEADERS: Final = "all_headers"
"""Name of the extension that holds all header fields of a redirect."""

Fields = list[tuple[str, str]]
"""Header fields in the order in which they are sent."""


class HttpxClients:
    """Clients for the calls in flight, made when needed. Safe to use from any number of threads or greenlets."""

    def __init__(self, base_url: str, api_key: SecretStr | None, tls: ssl.SSLContext | None = None) -> None:
        """Prepare calls below `base_url`, whose query is added to every URL.

        `tls` is for providers whose certificate a private authority signed. By default the usual authorities are
        trusted, or those of SSL_CERT_FILE or SSL_CERT_DIR. HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY apply.

        Raises:
            SettingsError: the URL, the key or a proxy cannot be used.
        """
        self.key = _usable_key(api_key)
        self._base = _usable_url(base_url)
        if self.key:  # else httpx sends the URL's user and password as Authorization
            self._base = self._base.copy_with(username="", password="")
        self._tls = tls or httpx.create_ssl_context()
        self._proxy = proxy_for(self._base, self._tls)
        try:
            self._first = self._make()
        except (httpx.InvalidURL, ValueError):
            raise unusable_proxy() from None
        self._free = [self._first] * CALLS_EACH
        self._fields: Fields = [
            ("Accept-Encoding", "identity"),  # answers are small, and a truncated body stays readable
            ("Connection", "close"),  # no connection is used twice
            ("User-Agent", f"backburner/{_version()}"),
        ]
        if self.key:
            self._fields.append(("Authorization", f"Bearer {self.key}"))

    def url_of(self, path: str) -> httpx.URL:
        """Return the URL of `path` below the base URL."""
        return self._first.build_request("GET", path).url

    def request(
        self, method: str, url: httpx.URL, fields: Fields, content: Iterator[bytes] | None, extensions: dict[str, Any]
    ) -> httpx.Request:
        """Build a request to a URL from `url_of`.

        It is built here and not by a client: merging a client's settings with each request's costs a twentieth of a
        call's CPU.
        """
        return httpx.Request(method, url, headers=[*self._fields, *fields], content=content, extensions=extensions)

    def take(self) -> httpx.Client:
        """Return a client with room for one more call. Give it back after the call."""
        try:
            return self._free.pop()
        except IndexError:
            client = self._make()
            self._free.extend([client] * (CALLS_EACH - 1))
            return client

    def give_back(self, client: httpx.Client) -> None:
        """Return the room of one call that is over to `client`."""
        self._free.append(client)

    def _make(self) -> httpx.Client:
        return CookielessClient(
            base_url=self._base.copy_with(query=None, fragment=None),
            params=self._base.params,
            verify=self._tls,
            proxy=self._proxy,
            trust_env=False,  # authorities and proxies are read here instead
            limits=UNLIMITED,
            event_hooks={"response": [_hide_location]},
        )


class NoCookies(httpx.Cookies):
    """A cookie jar that stays empty."""

    def extract_cookies(self, response: httpx.Response) -> None:
        """Ignore the cookies of a response: to look for them would take a twentieth of a call's CPU."""


class CookielessClient(httpx.Client):
    """httpx's client without cookies: one tenant's cookie must not be sent with another's call."""

    cookies = NoCookies()  # type: ignore[override]  # nothing sets any


def headers_of(response: httpx.Response) -> httpx.Headers:
    """Return all header fields of a response, a redirect's `Location` included."""
    headers: httpx.Headers = response.extensions.get(ALL_HEADERS, response.headers)
    return headers


def _hide_location(response: httpx.Response) -> None:
    """Hide a redirect's target: httpx parses it even if it does not follow it, and raises if it is no URL."""
    if "location" in response.headers:
        response.extensions[ALL_HEADERS] = response.headers.copy()
        del response.headers["location"]


def _usable_url(base_url: str) -> httpx.URL:
    try:
        url = httpx.URL(base_url)
        url.host.encode("idna")  # as the resolver does; a label may be too long for it
    except (httpx.InvalidURL, UnicodeError):
        raise SettingsError("BACKBURNER_PROVIDER_BASE_URL is not a usable URL") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise SettingsError("BACKBURNER_PROVIDER_BASE_URL is not a usable URL")
    return url


def _usable_key(api_key: SecretStr | None) -> str:
    key = "" if api_key is None else api_key.get_secret_value().strip()
    if not (key.isascii() and key.isprintable()):
        raise SettingsError("BACKBURNER_PROVIDER_API_KEY holds characters that an HTTP header cannot hold")
    return key


def _version() -> str:
    try:
        return version("backburner")
    except PackageNotFoundError:  # run from a source tree that was not installed
        return "0"
