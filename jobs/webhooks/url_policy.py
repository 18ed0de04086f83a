"""The URLs and addresses to which webhooks may be sent: the rules against server-side request forgery, without I/O.

A URL is parsed once, strictly, and the connection uses the parsed parts, so that no second parser can read it
differently. An address counts as public only if no registry says otherwise
(https://www.iana.org/assignments/iana-ipv4-special-registry, .../iana-ipv6-special-registry). Addresses that contain
another one (IPv4-mapped, NAT64, 6to4, ...) are refused, because the target depends on the system that decodes them.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final
from urllib.parse import quote, urlsplit

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

LONGEST_URL: Final = 2048
DEFAULT_PORTS: Final = {"https": 443, "http": 80}
USUAL_PORTS: Final = {"https": frozenset({443, 8443}), "http": frozenset({80, 8080})}
NAME: Final = re.compile(
    r"(?=.{1,253}\Z)[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*\.?"
)
NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")

NOT_PUBLIC_4: Final = tuple(
    ip_network(each)
    for each in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",  # carrier-grade NAT; Alibaba's metadata
        "127.0.0.0/8",
        "168.63.129.16/32",  # Azure's host, public by its number only
        "169.254.0.0/16",  # link-local; metadata of most clouds
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
    )
)
GLOBAL_6: Final = ip_network("2000::/3")
"""All addresses assigned for use between networks. Loopback, private, link-local and multicast lie outside."""
NOT_PUBLIC_6: Final = tuple(
    ip_network(each)
    for each in (
        "2001::/23",  # Teredo and other protocols' own
        "2001:db8::/32",
        "2002::/16",  # 6to4
        "3fff::/20",
    )
)
MAPPED: Final = ip_network("::ffff:0:0/96")
COMPATIBLE: Final = ip_network("::/96")
NAT64: Final = ip_network("64:ff9b::/96")


NOWHERE: Final = "it does not lead to a public address on a usual port, and this server sends to no other."
"""The only message for a host that is refused for its addresses or has none; others would reveal the network."""


class DestinationRefused(Exception):
    """Nothing is sent to this URL; the message is a sentence for the caller who gave it."""


@dataclass(frozen=True)
class Destination:
    """A parsed URL: `host` is a lower-case name or an address without brackets, `target` is path and query."""

    scheme: str
    host: str
    port: int
    target: str

    @property
    def origin(self) -> str:
        """The server, whatever the path; concurrent deliveries are limited by it."""
        return f"{self.scheme}://{self._authority}:{self.port}"

    @property
    def host_header(self) -> str:
        """The value of the `Host` header."""
        return self._authority if self.port == DEFAULT_PORTS[self.scheme] else f"{self._authority}:{self.port}"

    @property
    def address(self) -> Address | None:
        """The host if it is an address, None if it is a name."""
        try:
            return ip_address(self.host)
        except ValueError:
            return None

    @property
    def _authority(self) -> str:
        return f"[{self.host}]" if ":" in self.host else self.host


def parse_destination(url: str) -> Destination:
    """Parse a URL strictly.

    Raises:
        DestinationRefused: it is not a plain absolute http or https URL.
    """
    if len(url) > LONGEST_URL:
        raise DestinationRefused(f"expected at most {LONGEST_URL} characters.")
    if any(character.isspace() or not character.isprintable() or character == "\\" for character in url):
        raise DestinationRefused("expected an absolute http or https URL.")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise DestinationRefused("expected an absolute http or https URL.") from None
    if parts.scheme not in DEFAULT_PORTS or not parts.hostname or port == 0:
        raise DestinationRefused("expected an absolute http or https URL.")
    if "@" in parts.netloc:
        raise DestinationRefused("a user name or password in the URL is not supported.")
    target = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~") + (
        f"?{quote(parts.query, safe='/%:@!$&()*+,;=~?')}" if parts.query else ""
    )
    return Destination(parts.scheme, _host(parts.hostname), port or DEFAULT_PORTS[parts.scheme], target)


def _host(host: str) -> str:
    try:
        address = ip_address(host)
    except ValueError:
        pass
    else:
        if isinstance(address, IPv6Address) and address.scope_id is not None:
            raise DestinationRefused("an address with a zone is not supported.")
        return str(address)
    if not host.isascii():
        raise DestinationRefused("write an international host name in its 'xn--' form.")
    if NAME.fullmatch(host) is None:
        raise DestinationRefused("the host name is not valid.")
    if NUMBER.fullmatch(host.rstrip(".").rpartition(".")[2]):  # such as 2130706433 and 0x7f.1, which resolvers accept
        raise DestinationRefused("write an IPv4 address as four decimal numbers.")
    return host


@dataclass(frozen=True)
class DestinationPolicy:
    """The exceptions of the operator from https to public addresses on the usual ports."""

    allow_http: bool = False
    networks: Sequence[Network] = ()

    def check_url(self, destination: Destination) -> None:
        """Check the rules that need no name resolution.

        Raises:
            DestinationRefused: nothing may be sent there.
        """
        if destination.scheme != "https" and not self.allow_http:
            raise DestinationRefused("expected an https URL; plain http is not allowed by this server.")
        if destination.address is not None:
            self.check_addresses(destination, [destination.address])
        elif not self.networks:
            _check_port(destination)

    def check_addresses(self, destination: Destination, addresses: Iterable[Address]) -> None:
        """Check every address of a destination, because the one that is used is not chosen here alone.

        Raises:
            DestinationRefused: nothing may be sent there.
        """
        for address in addresses:
            if any(address in network for network in self.networks):
                inner = embedded(address)
                if inner is None or is_public(inner) or any(inner in network for network in self.networks):
                    continue
            if not is_public(address):
                raise DestinationRefused(NOWHERE)
            _check_port(destination)


def _check_port(destination: Destination) -> None:
    usual = USUAL_PORTS[destination.scheme]
    if destination.port not in usual:
        listed = " or ".join(str(port) for port in sorted(usual))
        raise DestinationRefused(f"port {destination.port} is not allowed; use {listed} for {destination.scheme}.")


def is_public(address: Address) -> bool:
    """Return whether an address belongs to the public internet."""
    if isinstance(address, IPv4Address):
        return not any(address in network for network in NOT_PUBLIC_4)
    return address in GLOBAL_6 and not any(address in network for network in NOT_PUBLIC_6)


def embedded(address: Address) -> IPv4Address | None:
    """Return the IPv4 address inside an IPv6 address that is connected to in its place, if there is one."""
    if isinstance(address, IPv4Address):
        return None
    if any(address in network for network in (MAPPED, COMPATIBLE, NAT64)) and int(address) > 1:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.sixtofour
