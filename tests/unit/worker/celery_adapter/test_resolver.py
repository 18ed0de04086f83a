"""IP addresses need no thread. Names are resolved in one."""

import socket

import pytest
from gevent.hub import get_hub

from worker.celery_adapter.resolver import AddressResolver


class Threads:
    """Stands in for the hub's pool, and notes each lookup in a thread."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def apply(self, look_up: object, args: tuple[str, ...], _kwargs: object = None) -> list[object]:
        self.asked.append(args[0])
        return []


@pytest.fixture
def threads() -> Threads:
    return Threads()


@pytest.fixture
def resolver(threads: Threads) -> AddressResolver:
    made = AddressResolver(get_hub())
    made.pool = threads
    return made


@pytest.mark.parametrize(
    ("address", "family", "where"),
    [
        ("127.0.0.1", socket.AF_INET, ("127.0.0.1", 443)),
        ("2001:db8::1", socket.AF_INET6, ("2001:db8::1", 443, 0, 0)),
    ],
)
def test_an_address_is_returned_without_a_thread(
    resolver: AddressResolver, threads: Threads, address: str, family: int, where: tuple[object, ...]
) -> None:
    [(found, kind, _, _, at)] = resolver.getaddrinfo(address, 443, 0, socket.SOCK_STREAM)
    assert (found, kind, at) == (family, socket.SOCK_STREAM, where)
    assert threads.asked == []


@pytest.mark.parametrize("name", ["localhost", "api.example.com", "1.2.3", b"localhost", None])
def test_anything_else_is_resolved_in_a_thread(resolver: AddressResolver, threads: Threads, name: object) -> None:
    resolver.getaddrinfo(name, 443)
    assert threads.asked == [name]
