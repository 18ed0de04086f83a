"""Calls through the operator's proxy: plain ones as a request, those with TLS through a tunnel."""

import select
import socket
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Thread

import pytest

from jobs.cancel_reason import AbortReason
from jobs.errors import ErrorKind
from jobs.job import Answer
from tests.provider.peer import SOON, Peer, Server, WatchedHandle, client_for, exchange, failure, start, whole
from tests.support.waiting import await_until
from worker.provider.call_handle import CallHandle


@contextmanager
def proxy_for(target: Server, *, tls: bool = False) -> Iterator[Server]:
    """Run a proxy that opens one tunnel."""
    with Server(tls=tls) as proxy:

        def serve() -> None:
            peer = proxy.accept()
            first, _, _ = peer.read_request()
            assert first.startswith(f"CONNECT 127.0.0.1:{target.port} ".encode())
            with socket.create_connection(("127.0.0.1", target.port), timeout=5) as onward:
                peer.send(b"HTTP/1.1 200 Connection established\r\nvia: %b\r\n\r\n" % (b"x" * 1_000))
                tunnel(peer.sock, onward)
                with suppress(OSError):
                    peer.sock.shutdown(socket.SHUT_RDWR)

        thread = Thread(target=serve, daemon=True)
        thread.start()
        yield proxy
        thread.join(5)


def tunnel(one: socket.socket, other: socket.socket) -> None:
    """Forward both directions until one ends, in one thread, as two must not use a TLS connection at once."""
    sinks = {one: other, other: one}
    with suppress(OSError):
        while True:
            ready, _, _ = select.select(list(sinks), [], [])
            for source in ready:
                data = source.recv(65536)
                if not data:
                    return
                sinks[source].sendall(data)


def test_plain(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with Server() as proxy:
        monkeypatch.setenv("http_proxy", f"http://us%40er:pass@127.0.0.1:{proxy.port}")
        handle = WatchedHandle()
        pending = start(client_for(server), handle)
        peer = proxy.accept()
        first, headers, _ = peer.read_request()
        peer.send(whole())
        assert isinstance(pending.report().result, Answer)
    assert first.startswith(f"POST {server.url}/responses ".encode())
    assert headers["proxy-authorization"] == f"Basic {b64encode(b'us@er:pass').decode()}"
    assert handle.options[socket.SOL_SOCKET, socket.SO_KEEPALIVE] == 1


@pytest.mark.parametrize("scheme", ["", "http://", "https://"])
def test_tunnel(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Server(tls=True) as server, proxy_for(server, tls=scheme == "https://") as proxy:
        monkeypatch.setenv("https_proxy", f"{scheme}127.0.0.1:{proxy.port}")
        assert isinstance(exchange(server, whole()).result, Answer)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_tunnel_aborted(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Server(tls=True) as server, proxy_for(server, tls=scheme == "https") as proxy:
        monkeypatch.setenv("https_proxy", f"{scheme}://127.0.0.1:{proxy.port}")
        handle = CallHandle()
        pending = start(client_for(server), handle)
        peer = server.accept()
        peer.read_request()
        await_until(lambda: handle.sent, 5, "it did not happen in time")
        assert handle.abort(AbortReason.CANCELLED)
        assert peer.sees_the_end()
        assert failure(pending.report(SOON)).kind is ErrorKind.INTERRUPTED


@pytest.mark.parametrize("does", [lambda peer: peer.send(whole(b"", "502 Bad Gateway")), Peer.reset])
def test_without_a_tunnel_nothing_is_sent(does: Callable[[Peer], None], monkeypatch: pytest.MonkeyPatch) -> None:
    with Server(tls=True) as server, Server() as proxy:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.port}")
        handle = CallHandle()
        pending = start(client_for(server), handle)
        peer = proxy.accept()
        peer.read_request()
        does(peer)
        assert failure(pending.report()).kind is ErrorKind.UNREACHABLE
        assert handle.never_sent


@pytest.mark.parametrize("exceptions", ["localhost,127.0.0.1", "*"])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_exceptions(scheme: str, exceptions: str, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"{scheme}://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", exceptions)
    assert isinstance(exchange(server, whole()).result, Answer)
