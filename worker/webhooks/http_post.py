"""One POST to a URL that a client chose: checked, bounded, and returning no more than a status.

The check is part of connecting. The name is resolved once, all its addresses are checked, and one of these addresses is
connected to, so that no second DNS reply can change it (DNS rebinding). TLS still proves the name. This uses httpcore
and not httpx, because it lets us make the connection, and has no redirects, cookies or proxies.
"""

import socket
import ssl
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from ipaddress import ip_address
from threading import Timer
from time import monotonic
from typing import Any, Final

import gevent
import httpcore
import httpx
from gevent.event import AsyncResult, Event
from gevent.monkey import get_original
from gevent.threadpool import ThreadPool

from jobs.cancel_reason import AbortReason
from jobs.clock import host_now
from jobs.fair_shares import Shares
from jobs.resource_shortage import causes, shortage_of
from jobs.retry_after import retry_after
from jobs.webhooks.protocol import DELIVERY_SECONDS, HEEDED, DeliveryError, DeliveryReport
from jobs.webhooks.url_policy import Address, Destination, DestinationPolicy, DestinationRefused, parse_destination
from worker.provider.call_handle import CallHandle

CONNECT_SECONDS: Final = 10.0
READ_BYTES: Final = 16 * 1024
"""Bytes of a reply's body that are read, so that the server is not cut off while it writes a short body."""
LOOKUPS_AT_ONCE: Final = 64

Resolve = Callable[[str, int, float], list[Address]]
"""Returns all addresses of a host, resolved within so many seconds. Raises `OSError` or `TimeoutError`."""


class Resolver:
    """Resolves names in threads of its own, so that names that hang delay neither calls nor other API keys.

    The keys share the threads. A lookup cannot be ended, so its thread counts for its key until it returns, even if
    nothing waits for it any more.
    """

    def __init__(
        self, at_once: int = LOOKUPS_AT_ONCE, look_up: Callable[..., Iterable[tuple[Any, ...]]] | None = None
    ) -> None:
        """Create it. `look_up` is `socket.getaddrinfo` without gevent's patch, unless it is given."""
        self._threads = ThreadPool(at_once)
        self._shares = Shares(at_once)
        self._freed = Event()
        self._look_up = look_up

    def __call__(self, host: str, port: int, seconds: float) -> list[Address]:
        """Return all addresses of `host`."""
        return self.for_key("")(host, port, seconds)

    def for_key(self, key: str) -> Resolve:
        """Return the function that resolves names within the share of one API key."""

        def resolve(host: str, port: int, seconds: float) -> list[Address]:
            with gevent.Timeout(seconds, TimeoutError(f"no answer within {seconds:.0f} s")):
                while not self._shares.take(key):
                    self._freed.wait()
                found = self._begin(key, host, port).get()
            return addresses_in(found)

        return resolve

    def _begin(self, key: str, host: str, port: int) -> AsyncResult:
        look_up = self._look_up or get_original("socket", "getaddrinfo")
        try:
            found = self._threads.spawn(look_up, host, port, 0, socket.SOCK_STREAM)
        except BaseException:  # its time ran out
            self._give_back(key)
            raise
        found.rawlink(lambda _: self._give_back(key))
        return found

    def _give_back(self, key: str) -> None:
        self._shares.give_back(key)
        freed, self._freed = self._freed, Event()
        freed.set()


def addresses_in(found: Iterable[tuple[Any, ...]]) -> list[Address]:
    """Return the addresses from `getaddrinfo`, each once. IPv6 zones are dropped: such addresses are refused anyway."""
    return list(dict.fromkeys(ip_address(each[4][0].partition("%")[0]) for each in found))


class GuardedBackend(httpcore.NetworkBackend):
    """Connects only to addresses that were checked."""

    def __init__(
        self,
        destination: Destination,
        policy: DestinationPolicy,
        resolve: Resolve,
        ends_at: float,
        network: httpcore.NetworkBackend,
    ) -> None:
        self._destination = destination
        self._policy = policy
        self._resolve = resolve
        self._ends_at = ends_at
        self._network = network

    def connect_tcp(
        self,
        host: str,  # noqa: ARG002  # the destination's, which is known already
        port: int,
        timeout: float | None = None,  # noqa: ARG002  # ours is shorter, and covers the lookup
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """Resolve the name, check its addresses and connect to one.

        Raises:
            DestinationRefused: an address is not allowed. Nothing was sent.
            NameUnresolved: the name has no address.
            httpcore.ConnectError: no address accepts a connection.
        """
        addresses = self._addresses()
        self._policy.check_addresses(self._destination, addresses)
        failure: Exception = httpcore.ConnectTimeout("no time left")
        for address in addresses:
            left = min(CONNECT_SECONDS, self._ends_at - monotonic())
            if left <= 0:
                break
            try:
                return self._network.connect_tcp(str(address), port, left, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure

    def _addresses(self) -> list[Address]:
        literal = self._destination.address
        if literal is not None:
            return [literal]
        left = max(0.001, min(CONNECT_SECONDS, self._ends_at - monotonic()))
        try:
            found = self._resolve(self._destination.host, self._destination.port, left)
        except (OSError, UnicodeError) as error:  # TimeoutError is one
            raise NameUnresolved(type(error).__name__) from None
        if not found:
            raise NameUnresolved("no address")
        return found


class NameUnresolved(Exception):
    """The destination's name has no address at the moment."""


@dataclass(frozen=True)
class Poster:
    """Sends signed deliveries. For use from any thread or greenlet."""

    policy: DestinationPolicy
    resolve: Resolve
    tls: ssl.SSLContext
    network: httpcore.NetworkBackend = field(default_factory=httpcore.SyncBackend)
    seconds: float = DELIVERY_SECONDS
    clock: Callable[[], datetime] = host_now

    @classmethod
    def create(cls, policy: DestinationPolicy, clock: Callable[[], datetime]) -> "Poster":
        """Return one that uses the system's DNS and the usual certificate authorities, or those of SSL_CERT_FILE."""
        return cls(policy, Resolver(), httpx.create_ssl_context(trust_env=True), clock=clock)

    def post(
        self, url: str, headers: Mapping[str, str], body: bytes, handle: CallHandle, key: str = ""
    ) -> DeliveryReport:
        """Send one POST and return its report, within `seconds` whatever the server does. Never raises.

        The name is resolved within the share of the API key with the id `key`.
        """
        try:
            destination = parse_destination(url)
            self.policy.check_url(destination)
        except DestinationRefused:
            return DeliveryReport(DeliveryError.ADDRESS_REFUSED)
        timer = Timer(self.seconds, lambda: handle.abort(AbortReason.CALL_DEADLINE))
        timer.daemon = True
        timer.start()
        try:
            return self._send(destination, headers, body, handle, self._resolve_for(key))
        except DestinationRefused:
            return DeliveryReport(DeliveryError.ADDRESS_REFUSED)
        except NameUnresolved as error:
            return DeliveryReport(DeliveryError.NAME_UNRESOLVED, shortage=shortage_of(error))
        except (httpcore.TimeoutException, TimeoutError):
            return DeliveryReport(DeliveryError.TIMED_OUT)
        except (httpcore.NetworkError, httpcore.ProtocolError, OSError) as error:
            return DeliveryReport(_kind_of(error, handle), shortage=shortage_of(error) if handle.never_sent else None)
        finally:
            timer.cancel()
            handle.end()

    def _resolve_for(self, key: str) -> Resolve:
        return self.resolve.for_key(key) if isinstance(self.resolve, Resolver) else self.resolve

    def _send(
        self, destination: Destination, headers: Mapping[str, str], body: bytes, handle: CallHandle, resolve: Resolve
    ) -> DeliveryReport:
        ends_at = monotonic() + self.seconds
        timeout = {"connect": CONNECT_SECONDS, "pool": self.seconds, "read": self.seconds, "write": self.seconds}
        url = httpcore.URL(
            scheme=destination.scheme.encode(),
            host=destination.host.encode(),
            port=destination.port,
            target=destination.target.encode(),
        )
        fields = {"Host": destination.host_header, **headers, "Content-Length": str(len(body)), "Connection": "close"}
        backend = GuardedBackend(destination, self.policy, resolve, ends_at, self.network)
        with (
            httpcore.HTTPConnection(
                origin=url.origin, ssl_context=self.tls, network_backend=backend, http1=True, http2=False
            ) as connection,
            connection.stream(
                "POST",
                url,
                headers=list(fields.items()),
                content=body,
                extensions={"timeout": timeout, "trace": handle.trace},
            ) as response,
        ):
            report = _report(response, self.clock())
            with suppress(httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException, OSError):
                _read_some(response)
            handle.detach()
            return report


def _read_some(response: httpcore.Response) -> None:
    read = 0
    for chunk in response.iter_stream():
        read += len(chunk)
        if read >= READ_BYTES:
            return


def _report(response: httpcore.Response, now: datetime) -> DeliveryReport:
    status = response.status
    if 200 <= status < 300:
        return DeliveryReport(None, status)
    if 300 <= status < 400:
        return DeliveryReport(DeliveryError.REDIRECTED, status)
    if status == 410:
        return DeliveryReport(DeliveryError.GONE, status)
    pause = None
    if status in HEEDED:
        asked = next((value for name, value in response.headers if name.lower() == b"retry-after"), b"")
        pause = retry_after(asked.decode("latin-1"), now)
    return DeliveryReport(DeliveryError.HTTP_ERROR, status, pause)


def _kind_of(error: Exception, handle: CallHandle) -> DeliveryError:
    if handle.aborted is AbortReason.CALL_DEADLINE:
        return DeliveryError.TIMED_OUT
    if handle.aborted is not None:
        return DeliveryError.LOST
    if any(isinstance(each, ssl.SSLError) for each in causes(error)):
        return DeliveryError.TLS_FAILED
    return DeliveryError.INTERRUPTED if handle.sent else DeliveryError.UNREACHABLE
