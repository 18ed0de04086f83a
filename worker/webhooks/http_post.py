"""One POST to a receiver that a stranger chose: guarded, bounded, and never more than a status brought back.

The guard sits where the connection is made. A name is resolved once, every address it has is checked, and one of those
very addresses is connected to, so no second answer can slip in between (DNS rebinding); TLS still proves the name.
httpcore rather than httpx, as it lets us make the connection, and knows nothing of redirects, cookies or proxies.
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
"""How much of an answer's body is read, so that a receiver is not cut off while it writes its few words."""
LOOKUPS_AT_ONCE: Final = 64

Resolve = Callable[[str, int, float], list[Address]]
"""All addresses of a host, looked up within so many seconds; raises `OSError` or `TimeoutError`."""


class Resolver:
    """Looks names up in threads of its own: names that hang must not hold up those of the provider's calls.

    Nor those of another API key: keys share the threads. A look-up cannot be ended, so its thread is its key's until it
    comes back, however long ago anybody has ceased to wait for it.
    """

    def __init__(
        self, at_once: int = LOOKUPS_AT_ONCE, look_up: Callable[..., Iterable[tuple[Any, ...]]] | None = None
    ) -> None:
        """`look_up` is `socket.getaddrinfo`, as it is below gevent."""
        self._threads = ThreadPool(at_once)
        self._shares = Shares(at_once)
        self._freed = Event()
        self._look_up = look_up

    def __call__(self, host: str, port: int, seconds: float) -> list[Address]:
        """All addresses of `host`."""
        return self.for_key("")(host, port, seconds)

    def for_key(self, key: str) -> Resolve:
        """The same within the share of one API key."""

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
        except BaseException:  # its time was over
            self._give_back(key)
            raise
        found.rawlink(lambda _: self._give_back(key))
        return found

    def _give_back(self, key: str) -> None:
        self._shares.give_back(key)
        freed, self._freed = self._freed, Event()
        freed.set()


def addresses_in(found: Iterable[tuple[Any, ...]]) -> list[Address]:
    """The addresses that `getaddrinfo` gave, each once; one with a zone loses it, and is refused for what it is."""
    return list(dict.fromkeys(ip_address(each[4][0].partition("%")[0]) for each in found))


class GuardedBackend(httpcore.NetworkBackend):
    """Connects to addresses that have been checked, and to nothing else."""

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
        host: str,  # noqa: ARG002  # the receiver's, which we know already
        port: int,
        timeout: float | None = None,  # noqa: ARG002  # ours ends earlier, and covers the name's look-up
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """Resolve, check, connect.

        Raises:
            DestinationRefused: an address is not to be sent to; nothing has been.
            NameUnresolved: there is no address.
            httpcore.ConnectError: nobody answers at any of them.
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
    """The receiver's name has no address at this moment."""


@dataclass(frozen=True)
class Poster:
    """Sends what was signed; safe to use from any number of threads or greenlets."""

    policy: DestinationPolicy
    resolve: Resolve
    tls: ssl.SSLContext
    network: httpcore.NetworkBackend = field(default_factory=httpcore.SyncBackend)
    seconds: float = DELIVERY_SECONDS
    clock: Callable[[], datetime] = host_now

    @classmethod
    def create(cls, policy: DestinationPolicy, clock: Callable[[], datetime]) -> "Poster":
        """With the machine's own names and the usual authorities, or those that SSL_CERT_FILE names."""
        return cls(policy, Resolver(), httpx.create_ssl_context(trust_env=True), clock=clock)

    def post(
        self, url: str, headers: Mapping[str, str], body: bytes, handle: CallHandle, key: str = ""
    ) -> DeliveryReport:
        """One POST, over within `seconds` by our own clock whatever the receiver does; always comes back.

        Its name is looked up within the share of the API key whose id is `key`.
        """
        try:
            destination = parse_destination(url)
            self.policy.check_url(destination)
        except DestinationRefused:
            return DeliveryReport(DeliveryError.ADDRESS_REFUSED)
        clock = Timer(self.seconds, lambda: handle.abort(AbortReason.CALL_DEADLINE))
        clock.daemon = True
        clock.start()
        try:
            return self._exchange(destination, headers, body, handle, self._resolve_for(key))
        except DestinationRefused:
            return DeliveryReport(DeliveryError.ADDRESS_REFUSED)
        except NameUnresolved as error:
            return DeliveryReport(DeliveryError.NAME_UNRESOLVED, shortage=shortage_of(error))
        except (httpcore.TimeoutException, TimeoutError):
            return DeliveryReport(DeliveryError.TIMED_OUT)
        except (httpcore.NetworkError, httpcore.ProtocolError, OSError) as error:
            return DeliveryReport(_kind_of(error, handle), shortage=shortage_of(error) if handle.never_sent else None)
        finally:
            clock.cancel()
            handle.end()

    def _resolve_for(self, key: str) -> Resolve:
        return self.resolve.for_key(key) if isinstance(self.resolve, Resolver) else self.resolve

    def _exchange(
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
                _read_a_little(response)
            handle.detach()
            return report


def _read_a_little(response: httpcore.Response) -> None:
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
