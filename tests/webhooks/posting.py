"""A poster for tests, with the test's own resolver and network."""

import ssl
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import Any

import httpcore

from jobs.webhooks.protocol import DeliveryReport
from jobs.webhooks.url_policy import Address, DestinationPolicy
from worker.provider.call_handle import CallHandle
from worker.webhooks.http_post import Poster

LOOPBACK = DestinationPolicy(allow_http=True, networks=(ip_network("127.0.0.0/8"),))


@dataclass
class Detour(httpcore.NetworkBackend):
    """Connects every address to one port of this machine."""

    port: int
    asked: list[tuple[str, int]] = field(default_factory=list)

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        self.asked.append((host, port))
        return httpcore.SyncBackend().connect_tcp("127.0.0.1", self.port, timeout)


def no_names(host: str, port: int, seconds: float) -> list[Address]:
    raise OSError(f"{host} is unknown")


def names(lookup: Callable[[str], list[Address]]) -> Callable[[str, int, float], list[Address]]:
    return lambda host, _port, _seconds: lookup(host)


def poster(policy: DestinationPolicy = LOOPBACK, **options: Any) -> Poster:
    return Poster(policy, options.pop("resolve", no_names), ssl.create_default_context(), **options)


def post(sender: Poster, url: str, body: bytes = b"{}") -> DeliveryReport:
    return sender.post(url, {"content-type": "application/json"}, body, CallHandle())
