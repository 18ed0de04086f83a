"""Which proxy leads to a host, as HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY say.

httpx reads them too, but knows no networks in NO_PROXY and refuses `[::1]` there, and checks an https:// proxy by the
authorities that it brings along, whatever SSL_CERT_FILE names.
"""

import ssl
from ipaddress import ip_address, ip_network
from urllib.request import getproxies

import httpx

from jobs.errors import SettingsError

EVERYTHING = "*"


def proxy_for(url: httpx.URL, tls: ssl.SSLContext) -> httpx.Proxy | None:
    """The proxy through which `url` is asked, if any; it is trusted as `tls` says.

    Raises:
        SettingsError: it cannot be used, or NO_PROXY cannot be read.
    """
    found = getproxies()
    address = found.get(url.scheme) or found.get("all")
    is_excepted = [_names(each.strip(), url) for each in found.get("no", "").split(",")]
    if not address or any(is_excepted):
        return None
    proxy = _usable(address)
    return httpx.Proxy(proxy, ssl_context=tls if proxy.scheme == "https" else None)


def unusable() -> SettingsError:
    """What is raised upon a proxy that cannot be used; the variables may hold a password."""
    return SettingsError(
        "HTTPS_PROXY, HTTP_PROXY, ALL_PROXY or NO_PROXY cannot be used; proxies are http:// or https://"
    )


def _usable(address: str) -> httpx.URL:
    """The URL of a proxy, which httpx would find at the first call that it cannot use."""
    try:
        proxy = httpx.URL(address if "://" in address else f"http://{address}")
        proxy.host.encode("idna")  # as the resolver will
    except (httpx.InvalidURL, UnicodeError):
        raise unusable() from None
    if not proxy.host or proxy.scheme not in ("http", "https"):
        raise unusable()
    return proxy


def _names(exception: str, url: httpx.URL) -> bool:
    """Whether one entry of NO_PROXY names the host: by name, by a domain above it, by its address or network.

    A scheme before it and a port after it count where they stand; `*` names everything.
    """
    scheme, _, rest = exception.rpartition("://")
    if scheme and scheme != url.scheme:
        return False
    if rest in ("", EVERYTHING):
        return rest == EVERYTHING
    host, port = _apart(rest)
    if port and int(port) != (url.port or {"http": 80, "https": 443}[url.scheme]):
        return False
    try:
        network = ip_network(host, strict=False)
    except ValueError:
        name = host.lower().removeprefix(EVERYTHING)
        return url.host == name or url.host.endswith(name if name.startswith(".") else f".{name}")
    try:
        return ip_address(url.host) in network
    except ValueError:
        return False


def _apart(text: str) -> tuple[str, str]:
    """A host, name or network, without the brackets of IPv6, and the port if there is one."""
    if text.startswith("["):
        host, closed, rest = text[1:].partition("]")
        network, _, port = rest.partition(":")
        if not closed or not (port.isdecimal() or not port) or (network and not network.startswith("/")):
            raise unusable()
        return host + network, port
    host, colon, port = text.rpartition(":")
    return (host, port) if colon and ":" not in host and port.isdecimal() else (text, "")
