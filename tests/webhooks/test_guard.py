"""No private address is reached: by no address, name or spelling, and by no second DNS answer or redirect."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import ip_address

import pytest

from jobs.webhooks.protocol import DeliveryError, DeliveryReport
from jobs.webhooks.url_policy import Address, DestinationPolicy
from tests.support.webhook_endpoint import Answer, Destination
from tests.webhooks import hostile
from tests.webhooks.posting import LOOPBACK, Detour, names, post, poster
from worker.webhooks.http_post import Resolver, addresses_in

HOSTILE = [hostile.url_of(each) for each in hostile.BY_ADDRESS]
HOSTILE += hostile.BY_SPELLING
HOSTILE += [f"https://{name}/" for name in hostile.BY_NAME]
WIDE = DestinationPolicy(allow_http=True)


@pytest.fixture(scope="module")
def bait() -> Iterator[Destination]:
    with Destination() as destination:
        yield destination


def test_no_hostile_url_reaches_anything(bait: Destination) -> None:
    """Every connection that the guard lets through ends at the bait, whatever its address."""
    assert len(HOSTILE) >= 40
    detour = Detour(bait.port)
    for policy in (DestinationPolicy(), WIDE):
        sender = poster(policy, resolve=names(hostile.addresses), network=detour)
        for url in HOSTILE:
            for each in {url, url.replace("https:", "http:", 1)}:
                assert post(sender, each) == DeliveryReport(DeliveryError.ADDRESS_REFUSED), each
    assert (detour.asked, bait.connections) == ([], 0)


def test_a_public_address_is_reached(bait: Destination) -> None:
    """Without this, the test above would prove nothing."""
    detour = Detour(bait.port)
    public = poster(WIDE, resolve=names(lambda _host: [ip_address(hostile.PUBLIC)]), network=detour)
    before = bait.connections
    assert post(public, "http://example.com:8080/hook?a=b") == DeliveryReport(None, 200)
    assert detour.asked == [(hostile.PUBLIC, 8080)]
    assert bait.connections == before + 1
    delivered = bait.delivered[-1]
    assert (delivered.path, delivered.headers["host"], delivered.body) == ("/hook?a=b", "example.com:8080", b"{}")


def test_the_operator_can_allow_a_network(bait: Destination) -> None:
    by_name = poster(LOOPBACK, resolve=names(lambda _host: [ip_address("127.0.0.1")]))
    before = bait.connections
    assert post(by_name, bait.url).error is None
    assert post(by_name, f"http://internal.example.com:{bait.port}/hook").error is None
    assert bait.connections == before + 2


def test_a_name_is_resolved_once_and_its_checked_address_is_used(bait: Destination) -> None:
    """A nameserver that would give another answer the second time is not asked again."""
    answers = [[ip_address(hostile.PUBLIC)], [ip_address(hostile.BAIT)]]

    def rebinding(_host: str) -> list[Address]:
        return answers.pop(0)

    detour = Detour(bait.port)
    sender = poster(WIDE, resolve=names(rebinding), network=detour)
    assert post(sender, "http://rebinding.example.com/").error is None
    assert detour.asked == [(hostile.PUBLIC, 80)]
    assert post(sender, "http://rebinding.example.com/").error is DeliveryError.ADDRESS_REFUSED
    assert len(detour.asked) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_a_failure_and_not_followed(bait: Destination, status: int) -> None:
    before = bait.connections
    with Destination(lambda _: Answer(status, {"location": bait.url})) as destination:
        assert post(poster(), destination.url) == DeliveryReport(DeliveryError.REDIRECTED, status)
    assert bait.connections == before


def test_proxies_of_the_environment_are_not_used(bait: Destination, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert post(poster(), bait.url).error is None


def test_the_next_address_is_tried_when_one_does_not_answer(bait: Destination) -> None:
    both = poster(LOOPBACK, resolve=names(lambda _host: [ip_address("127.0.0.2"), ip_address("127.0.0.1")]))
    assert post(both, f"http://two.example.com:{bait.port}/").error is None


class ScriptedPeer:
    """A server that sends a script of bytes to its first client, a piece every 50 ms, the `endless` one for ever."""

    def __init__(self, *pieces: bytes, endless: bytes = b"") -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._pieces, self._endless = pieces, endless
        threading.Thread(target=self._serve, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/"

    def _serve(self) -> None:
        with suppress(OSError):
            peer, _ = self._listener.accept()
            with peer:
                peer.recv(65536)
                for piece in self._pieces:
                    peer.sendall(piece)
                    time.sleep(0.05)  # the test is about slow peers
                while self._endless:
                    peer.sendall(self._endless)
                    time.sleep(0.05)

    def close(self) -> None:
        self._listener.close()


@pytest.mark.parametrize(
    ("peer", "report"),
    [
        (ScriptedPeer(b"HTTP/1.1 200 OK\r\n", endless=b"x-more: 1\r\n"), DeliveryReport(DeliveryError.TIMED_OUT)),
        (ScriptedPeer(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n", endless=b""), DeliveryReport(None, 200)),
        (ScriptedPeer(b"HTTP/1.1 200 OK\r\n\r\n", endless=b"x" * 65536), DeliveryReport(None, 200)),
        (ScriptedPeer(b"HTTP/1.1 204 No Content\r\n\r\n"), DeliveryReport(None, 204)),
        (ScriptedPeer(b"HTTP/1.1 200 OK\r\nx: " + b"y" * 200_000), DeliveryReport(DeliveryError.INTERRUPTED)),
        (ScriptedPeer(b"SSH-2.0-OpenSSH_9.7\r\n"), DeliveryReport(DeliveryError.INTERRUPTED)),
        (ScriptedPeer(), DeliveryReport(DeliveryError.INTERRUPTED)),
    ],
    ids=["trickled headers", "cut body", "endless body", "no content", "huge headers", "not HTTP", "hung up"],
)
def test_any_peer_is_done_with_in_time(peer: ScriptedPeer, report: DeliveryReport) -> None:
    started_at = time.monotonic()
    assert post(poster(seconds=0.6), peer.url) == report
    assert time.monotonic() - started_at < 2
    peer.close()


def test_a_hanging_peer_is_timed_out() -> None:
    with Destination(lambda _: Answer(hang=30)) as destination:
        started_at = time.monotonic()
        assert post(poster(seconds=0.4), destination.url) == DeliveryReport(DeliveryError.TIMED_OUT)
        assert time.monotonic() - started_at < 2


def test_unknown_names_and_closed_ports_have_their_own_errors() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert post(poster(), f"http://127.0.0.1:{port}/").error is DeliveryError.UNREACHABLE
    assert post(poster(), "https://nowhere.example.com/").error is DeliveryError.NAME_UNRESOLVED


def test_the_certificate_must_match_the_name(bait: Destination) -> None:
    detour = Detour(bait.port)
    sender = poster(WIDE, resolve=names(lambda _host: [ip_address(hostile.PUBLIC)]), network=detour)
    assert post(sender, "https://example.com/").error is DeliveryError.TLS_FAILED


class TestResolver:
    def test_it_finds_all_addresses_of_a_name(self) -> None:
        assert ip_address("127.0.0.1") in Resolver(1)("localhost", 443, 5)

    def test_an_unknown_name_is_an_error(self) -> None:
        with pytest.raises(OSError, match=r"."):
            Resolver(1)("no-such-name.invalid", 443, 5)

    def test_a_look_up_that_hangs_times_out(self, monkeypatch: pytest.MonkeyPatch) -> None:
        enough = threading.Event()
        monkeypatch.setattr("worker.webhooks.http_post.get_original", lambda *_: lambda *_: enough.wait(30))
        started_at = time.monotonic()
        with pytest.raises(TimeoutError):
            Resolver(1)("example.com", 443, 0.2)
        assert time.monotonic() - started_at < 5
        enough.set()

    def test_an_address_with_a_zone_is_parsed_without_it(self) -> None:
        assert addresses_in([(0, 0, 0, "", ("fe80::1%eth0", 443, 0, 2))]) == [ip_address("fe80::1")]
