"""One call over a real socket: its request, and every way in which it may end."""

import gzip
import json
import socket
import weakref
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from jobs.errors import ErrorKind, SettingsError
from jobs.job import Answer, CallReport
from jobs.model_catalog import Model
from tests.provider.peer import (
    ANSWER,
    BODY,
    KEY,
    Peer,
    Pending,
    Server,
    WatchedHandle,
    call,
    client_for,
    exchange,
    failure,
    head,
    start,
    whole,
)
from tests.support.waiting import await_until
from worker.provider.call_handle import KEEPALIVE, CallHandle
from worker.provider.client import ProviderClient
from worker.provider.http_exchange import KEPT_BYTES
from worker.provider.httpx_clients import CALLS_EACH


def hang_up(peer: Peer) -> None:
    peer.sock.close()


class Prompt(list[str]):
    """A list that can be referenced weakly."""


def use_up(client: ProviderClient, body: dict[str, Any]) -> CallReport:
    return client.call(
        body,
        request_id="resp_0:1",
        model=Model("some/model"),
        deadline=timedelta(seconds=30),
        handle=CallHandle(),
        accepted=print,
    )


class TestWhatGoesOut:
    def test_one_plain_post(self, server: Server) -> None:
        body = {**BODY, "input": "Grüße \N{GRINNING FACE} " + "x" * 200_000, "unknown": {"kept": [1, None]}}
        pending = start(client_for(server), CallHandle(), body)
        peer = server.accept()
        first, headers, sent = peer.read_request()
        peer.send(whole())
        pending.report()
        assert first == b"POST /v1/responses HTTP/1.1"
        assert json.loads(sent) == body
        assert headers["authorization"] == f"Bearer {KEY}"
        assert headers["x-client-request-id"] == "resp_0:1"
        assert headers["host"] == f"127.0.0.1:{server.port}"
        assert headers["content-type"] == headers["accept"] == "application/json"
        assert headers["user-agent"].startswith("backburner/")
        assert "transfer-encoding" not in headers
        assert peer.sees_the_end()  # one call per connection

    def test_the_prompt_is_freed_while_the_answer_is_awaited(self, server: Server) -> None:
        prompt = Prompt(["Hello"])
        held, body = weakref.ref(prompt), {**BODY, "input": prompt}
        del prompt
        pending = Pending(lambda: use_up(client_for(server), body))
        peer = server.accept()
        assert json.loads(peer.read_request()[2])["input"] == ["Hello"]
        await_until(lambda: held() is None, 5, "it is still held")
        peer.send(whole())
        pending.report()

    def test_no_key_means_no_authorization(self, server: Server) -> None:
        pending = start(ProviderClient(server.url + "/", None), CallHandle())
        peer = server.accept()
        first, headers, _ = peer.read_request()
        peer.send(whole())
        pending.report()
        assert first == b"POST /v1/responses HTTP/1.1"
        assert "authorization" not in headers

    @pytest.mark.parametrize(("key", "sent"), [(SecretStr(KEY), f"Bearer {KEY}"), (None, "Basic dXM6cGFzcw==")])
    def test_a_key_takes_precedence_over_the_urls_user(self, server: Server, key: SecretStr | None, sent: str) -> None:
        pending = start(ProviderClient(server.url.replace("://", "://us:pass@"), key), CallHandle())
        peer = server.accept()
        headers = peer.read_request()[1]
        peer.send(whole())
        pending.report()
        assert headers["authorization"] == sent
        assert headers["host"] == f"127.0.0.1:{server.port}"

    def test_credentials_of_netrc_are_not_sent(
        self, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password secret\n")
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
        pending = start(ProviderClient(server.url, None), CallHandle())
        peer = server.accept()
        assert "authorization" not in peer.read_request()[1]
        peer.send(whole())
        pending.report()

    def test_more_calls_at_once_than_one_client_makes(self, server: Server) -> None:
        client = client_for(server)
        pending, peers = [], []
        for _ in range(2 * CALLS_EACH + 1):
            pending.append(start(client, CallHandle()))
            peers.append(server.accept())
            peers[-1].read_request()
        for peer in peers:
            peer.send(whole())
        assert all(isinstance(each.report().result, Answer) for each in pending)
        assert all(peer.sees_the_end() for peer in peers)

    def test_cookies_are_not_sent_with_the_next_call(self, server: Server) -> None:
        client = client_for(server)
        for _ in range(2):
            pending = start(client, CallHandle())
            peer = server.accept()
            assert "cookie" not in peer.read_request()[1]
            peer.send(whole(set_cookie="session=1; path=/"))
            pending.report()


class TestAnswers:
    def test_whole(self, server: Server) -> None:
        report = exchange(server, whole(x_inference_id="inf_1", x_aimlapi_usd_spent="0.25"))
        assert isinstance(report.result, Answer)
        assert report.raw == ANSWER
        assert report.http_status == 200
        assert report.provider_request_id == "inf_1"
        assert report.provider_response_id == "resp_1"
        assert report.provider_model == "model-2026"
        assert report.cost is not None
        assert report.cost.microusd == 250_000

    def test_on_tls(self) -> None:
        with Server(tls=True) as server:
            assert isinstance(exchange(server, whole()).result, Answer)

    def test_after_keepalive_spaces(self, server: Server) -> None:
        assert isinstance(exchange(server, whole(b"   \n\n" + ANSWER)).result, Answer)

    def test_in_pieces(self, server: Server) -> None:
        pieces = b"".join(b"1\r\n%c\r\n" % byte for byte in ANSWER) + b"0\r\n\r\n"
        assert isinstance(exchange(server, head(transfer_encoding="chunked") + pieces).result, Answer)

    def test_until_the_connection_closes(self, server: Server) -> None:
        assert isinstance(exchange(server, head(connection="close") + ANSWER, hang_up).result, Answer)

    def test_compressed_although_not_requested(self, server: Server) -> None:
        assert isinstance(exchange(server, whole(gzip.compress(ANSWER), content_encoding="gzip")).result, Answer)

    def test_whole_although_the_connection_broke_after_it(self, server: Server) -> None:
        """It was billed; only its terminator is missing."""
        answer = head(transfer_encoding="chunked") + b"%x\r\n%b\r\n" % (len(ANSWER), ANSWER)
        assert isinstance(exchange(server, answer, hang_up).result, Answer)


class TestBrokenAnswers:
    @pytest.mark.parametrize("end", [hang_up, Peer.reset])
    def test_cut_off(self, server: Server, end: Callable[[Peer], None]) -> None:
        def after_it_was_read(peer: Peer) -> None:
            await_until(peer.all_has_arrived, 5, "it did not happen in time")
            end(peer)

        answer = head(content_length=len(ANSWER), x_inference_id="inf_1", x_aimlapi_usd_spent="0.5") + ANSWER[:100]
        report = exchange(server, answer, after_it_was_read)
        if report.http_status is None:  # a reset may discard bytes that were not read yet
            assert failure(report).kind is ErrorKind.INTERRUPTED
            return
        assert failure(report).kind is ErrorKind.MALFORMED_ANSWER
        assert report.raw == ANSWER[:100]
        assert report.provider_request_id == "inf_1"
        assert report.cost is not None

    def test_of_another_encoding_than_its_header(self, server: Server) -> None:
        report = exchange(server, whole(ANSWER, content_encoding="gzip"))
        assert failure(report).kind is ErrorKind.MALFORMED_ANSWER

    def test_too_large(self, server: Server) -> None:
        report = exchange(server, whole(b'{"output": "' + b"x" * 400_000 + b'"}'), max_answer_bytes=300_000)
        assert failure(report).kind is ErrorKind.MALFORMED_ANSWER
        assert "larger than 300,000 bytes" in failure(report).message
        assert report.raw is not None
        assert len(report.raw) == KEPT_BYTES

    def test_not_http(self, server: Server) -> None:
        report = exchange(server, b"\x00\x01SSH-2.0-nothing\r\n\r\n")
        assert failure(report).kind is ErrorKind.INTERRUPTED

    @pytest.mark.parametrize("end", [hang_up, Peer.reset])
    def test_no_answer_at_all(self, server: Server, end: Callable[[Peer], None]) -> None:
        report = exchange(server, b"", end)
        assert failure(report).kind is ErrorKind.INTERRUPTED
        assert report.http_status is None


class TestRefusals:
    def test_in_the_providers_words(self, server: Server) -> None:
        body = json.dumps({"message": "Too Many Requests", "statusCode": "429", "requestId": "req_1"}).encode()
        report = exchange(server, whole(body, "429 Too Many Requests", retry_after="7"))
        assert failure(report).kind is ErrorKind.RATE_LIMITED
        assert failure(report).message == "Too Many Requests"
        assert report.provider_request_id == "req_1"
        assert report.raw is None

    def test_with_a_truncated_text(self, server: Server) -> None:
        report = exchange(server, head("503 Service Unavailable", content_length=999) + b"sorry", hang_up)
        assert failure(report).kind is ErrorKind.OVERLOADED
        assert failure(report).message == "sorry"

    def test_with_an_endless_text(self, server: Server) -> None:
        def go_on(peer: Peer) -> None:
            with suppress(OSError):  # until the client disconnects
                while True:
                    peer.send(b"and so on " * 1000)

        report = exchange(server, head("500 Internal Server Error", connection="close"), go_on)
        assert failure(report).kind is ErrorKind.SERVER_ERROR
        assert len(failure(report).message) == 2000

    def test_before_the_request_was_read(self, server: Server) -> None:
        body = {**BODY, "input": "x" * 300_000}
        pending = start(client_for(server), CallHandle(), body)
        peer = server.accept()
        peer.send(whole(b"request entity too large", "413 Payload Too Large"))
        peer.read_request()
        assert failure(pending.report()).kind is ErrorKind.REJECTED

    def test_redirects_are_not_followed(self, server: Server) -> None:
        with Server() as elsewhere:
            target = f"http://user:secret@127.0.0.1:{elsewhere.port}/v2/responses?key=secret"
            report = exchange(server, whole(b"", "308 Permanent Redirect", location=target))
            assert failure(report).kind is ErrorKind.UNREACHABLE
            assert failure(report).unreachable_reason == "HTTP 308: it has moved to http://127.0.0.1/v2/responses"
            assert "http://127.0.0.1/v2/responses" in failure(report).message
            assert "secret" not in failure(report).message
            assert not elsewhere.was_called()

    @pytest.mark.parametrize("target", ["http://[::1", "mailto:me", "", "\x80\xff"])
    def test_redirects_to_an_invalid_url(self, server: Server, target: str) -> None:
        report = exchange(server, whole(b"", "302 Found", location=target))
        assert failure(report).kind is ErrorKind.UNREACHABLE
        assert report.http_status == 302

    def test_a_message_that_repeats_our_key_is_replaced(self, server: Server) -> None:
        body = json.dumps({"error": {"message": f"Incorrect API key provided: {KEY}."}}).encode()
        report = exchange(server, whole(body, "401 Unauthorized"))
        assert failure(report).kind is ErrorKind.BAD_CREDENTIALS
        assert KEY not in failure(report).message
        assert failure(report).message.startswith("The provider refuses this server's API key (HTTP 401).")


class TestUnreachable:
    def test_connection_refused(self) -> None:
        with Server() as server:
            client = client_for(server)
        report = call(client)
        assert failure(report).kind is ErrorKind.UNREACHABLE
        assert "connection refused" in failure(report).message

    def test_certificate_not_trusted(self) -> None:
        with Server(tls=True) as server:
            handle = CallHandle()
            pending = start(ProviderClient(server.url, SecretStr(KEY)), handle)
            with suppress(OSError):
                server.accept()
            report = pending.report()
        assert failure(report).kind is ErrorKind.UNREACHABLE
        assert "certificate is not trusted" in failure(report).message
        assert handle.never_sent

    def test_plain_http_in_place_of_tls(self) -> None:
        with Server() as server:
            client = ProviderClient(server.url.replace("http:", "https:"), None)
            pending = start(client, CallHandle())
            server.accept().send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            report = pending.report()
        assert failure(report).kind is ErrorKind.UNREACHABLE
        assert "TLS" in failure(report).message

    def test_disconnects_in_the_request(self, server: Server) -> None:
        """The provider has part of the request, which may have been enough to run it."""
        handle = CallHandle()
        pending = start(client_for(server), handle, {**BODY, "input": "x" * 32 * 1024 * 1024})
        peer = server.accept()
        peer.read_until(lambda data: len(data) > 100_000)
        peer.reset()
        assert failure(pending.report()).kind is ErrorKind.INTERRUPTED
        assert not handle.never_sent

    def test_stops_reading_the_request(self, server: Server) -> None:
        handle = CallHandle()
        pending = start(client_for(server), handle, {**BODY, "input": "x" * 32 * 1024 * 1024}, deadline=0.3)
        server.accept().read_until(lambda data: len(data) > 100_000)
        assert failure(pending.report()).kind is ErrorKind.INTERRUPTED
        assert not handle.never_sent


def test_dead_connections_are_detected(server: Server) -> None:
    handle = WatchedHandle()
    pending = start(client_for(server), handle)
    peer = server.accept()
    peer.read_request()
    peer.send(whole())
    pending.report()
    assert handle.options == {(level, name): value for level, name, value in KEEPALIVE}
    assert handle.options[socket.SOL_SOCKET, socket.SO_KEEPALIVE] == 1


@pytest.mark.parametrize(
    ("base_url", "key", "proxy", "named"),
    [
        ("http://[::1", None, None, "PROVIDER_BASE_URL"),
        ("ftp://host/v1", None, None, "PROVIDER_BASE_URL"),
        ("http:///v1", None, None, "PROVIDER_BASE_URL"),
        (f"http://{'x' * 80}.example/v1", None, None, "PROVIDER_BASE_URL"),
        ("http://host/v1", "two\nlines", None, "PROVIDER_API_KEY"),
        ("http://host/v1", "schlüssel", None, "PROVIDER_API_KEY"),
        ("http://host/v1", None, "socks5://user:secret@host:1080", "PROXY"),
        ("http://host/v1", None, "http://[::1", "PROXY"),
        ("http://host/v1", None, "http://", "PROXY"),
        ("http://host/v1", None, f"http://{'x' * 80}.example", "PROXY"),
        ("http://host/v1", None, "gopher://host:70", "PROXY"),
    ],
)
def test_unusable_settings_fail_at_start(
    base_url: str, key: str | None, proxy: str | None, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if proxy:
        monkeypatch.setenv("http_proxy", proxy)
    with pytest.raises(SettingsError, match=named) as caught:
        ProviderClient(base_url, None if key is None else SecretStr(key))
    assert key is None or key not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_spaces_around_a_key_are_removed(server: Server) -> None:
    pending = start(ProviderClient(server.url, SecretStr(f" {KEY}\n")), CallHandle())
    peer = server.accept()
    assert peer.read_request()[1]["authorization"] == f"Bearer {KEY}"
    peer.send(whole())
    pending.report()
