"""The proxy for a host, from HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY.

httpx reads these variables too. But it supports no networks in NO_PROXY, refuses `[::1]` there, and checks an https://
proxy with the authorities of certifi, whatever SSL_CERT_FILE names.
"""

import ssl
from ipaddress import ip_address, ip_network
from urllib.request import getproxies

import httpx

from jobs.errors import SettingsError

ANY_HOST = "*"


def proxy_for(url: httpx.URL, tls: ssl.SSLContext) -> httpx.Proxy | None:
    """Return the proxy to use for `url`, if any. An https:// proxy is verified with `tls`.

    Raises:
        SettingsError: the proxy cannot be used, or NO_PROXY cannot be read.
    """
    found = getproxies()
    address = found.get(url.scheme) or found.get("all")
    is_excepted = [_matches(each.strip(), url) for each in found.get("no", "").split(",")]
    if not address or any(is_excepted):
        return None
    proxy = _usable(address)
    return httpx.Proxy(proxy, ssl_context=tls if proxy.scheme == "https" else None)


def unusable_proxy() -> SettingsError:
    """Return the error for unusable_proxy proxy settings. It repeats no value: a variable may hold a password."""
    return SettingsError(
        "HTTPS_PROXY, HTTP_PROXY, ALL_PROXY or NO_PROXY cannot be used; proxies are http:// or https://"
    )


def _usable(address: str) -> httpx.URL:
    """Return the URL of a proxy; refuse now what httpx would refuse at the first call."""
    try:
        proxy = httpx.URL(address if "://" in address else f"http://{address}")
        proxy.host.encode("idna")  # as the resolver does
    except (httpx.InvalidURL, UnicodeError):
        raise unusable_proxy() from None
    if not proxy.host or proxy.scheme not in ("http", "https"):
        raise unusable_proxy()
    return proxy


def _matches(entry: str, url: httpx.URL) -> bool:
    """Return whether an entry of NO_PROXY covers the host: by name, parent domain, address or network.

    A scheme before the host and a port after it must match too. `*` covers every host.
    """
    scheme, _, rest = entry.rpartition("://")
    if scheme and scheme != url.scheme:
        return False
    if rest in ("", ANY_HOST):
        return rest == ANY_HOST
    host, port = _split_port(rest)
    if port and int(port) != (url.port or {"http": 80, "https": 443}[url.scheme]):
        return False
    try:
        network = ip_network(host, strict=False)
    except ValueError:
        name = host.lower().removeprefix(ANY_HOST)
        return url.host == name or url.host.endswith(name if name.startswith(".") else f".{name}")
    try:
        return ip_address(url.host) in network
    except ValueError:
        return False


def _split_port(text: str) -> tuple[str, str]:
    """Split a host, name or network from its port. IPv6 loses its brackets; the port may be empty."""
    if text.startswith("["):
        host, closed, rest = text[1:].partition("]")
        network, _, port = rest.partition(":")
        if not closed or not (port.isdecimal() or not port) or (network and not network.startswith("/")):
            raise unusable_proxy()
        return host + network, port
    host, colon, port = text.rpartition(":")
    return (host, port) if colon and ":" not in host and port.isdecimal() else (text, "")
