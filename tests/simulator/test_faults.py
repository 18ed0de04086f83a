"""Faults below HTTP, checked byte by byte, and the call log's record of each."""

import time

import httpx
import pytest

from tests.simulator.provider import Provider


def split(got: bytes) -> tuple[bytes, bytes, int]:
    """Return head, body, and the length that the head promises."""
    head, _, body = got.partition(b"\r\n\r\n")
    _, _, length = head.partition(b"content-length: ")
    return head, body, int(length.split(b"\r\n")[0])


@pytest.mark.parametrize("stream", [False, True])
def test_drop_resets_before_any_byte(provider: Provider, *, stream: bool) -> None:
    with provider.raw("[[sim: drop]]", stream=stream) as call:
        assert call.read_to_end() == (b"", True)
    ended = provider.await_call("dropped")
    assert (ended["billed"], ended["http_status"]) == (False, None)


@pytest.mark.parametrize(
    ("step", "billed", "cost"), [("truncated billed=no", False, 0), ("drop billed=yes cost=0.5", True, 0.5)]
)
def test_the_billing_of_a_fault_can_be_set(provider: Provider, step: str, cost: float, *, billed: bool) -> None:
    with provider.raw(f"[[sim: {step}]]") as call:
        call.read_to_end()
    ended = provider.await_call("dropped")
    assert (ended["billed"], ended["cost_usd"]) == (billed, cost)


def test_close_ends_before_any_byte(provider: Provider) -> None:
    with provider.raw("[[sim: close]]") as call:
        assert call.read_to_end() == (b"", False)
    provider.await_call("dropped")


def test_httpx_sees_the_faults_as_its_own_errors(provider: Provider) -> None:
    with pytest.raises(httpx.ReadError):
        provider.ask("[[sim: drop]]")
    for fault in ("close", "truncated", "garbage"):
        with pytest.raises(httpx.RemoteProtocolError):
            provider.ask(f"[[sim: {fault}]]")


@pytest.mark.parametrize("stream", [False, True])
def test_drop_after_headers_shows_a_200_and_no_body(provider: Provider, *, stream: bool) -> None:
    with provider.raw("[[sim: drop-after-headers]]", stream=stream) as call:
        got, reset = call.read_to_end()
    head, body, length = split(got)
    assert reset
    assert head.startswith(b"HTTP/1.1 200 OK")
    assert length > len(body) == 0
    assert provider.await_call("dropped")["billed"] is True


def test_truncated_promises_more_than_it_sends(provider: Provider) -> None:
    with provider.raw("[[sim: truncated]]") as call:
        got, reset = call.read_to_end()
    _, body, length = split(got)
    assert not reset
    assert body.startswith(b'{"id":"resp_')
    assert len(body) == length // 2
    assert provider.await_call("dropped")["billed"] is True


def test_half_open_answers_nothing_until_its_maximum(provider: Provider) -> None:
    began = time.monotonic()
    with provider.raw("[[sim: half-open max=0.2]]") as call:
        assert call.read_to_end() == (b"", False)
        assert time.monotonic() - began >= 0.19
    assert provider.await_call("dropped")["billed"] is False


def test_half_open_notices_a_disconnect(provider: Provider) -> None:
    with provider.raw("[[sim: half-open]]"):
        provider.await_call("running")
    ended = provider.await_call("client_disconnected")
    assert ended["client_closed_at"] is not None


def test_stall_sends_half_and_waits(provider: Provider) -> None:
    with provider.raw("[[sim: stall max=0.1]]") as call:
        got, _ = call.read_to_end()
    _, body, length = split(got)
    assert len(body) == length // 2
    with provider.raw("[[sim: stall]]") as call:
        call.read_until(b'"id":"resp_')
    ended = provider.await_calls(lambda call_log: call_log["summary"]["in_flight"] == 0)["calls"][-1]
    assert (ended["outcome"], ended["billed"]) == ("client_disconnected", True)


def test_slow_drips_the_whole_answer(provider: Provider) -> None:
    with provider.http.stream(
        "POST", "/v1/responses", json=provider.body("[[sim: slow every=0.002 text=Drip]]")
    ) as response:
        pieces = list(response.iter_raw())
    assert len(pieces) > 10
    assert b'"output_text":"Drip"' in b"".join(pieces)
    assert provider.await_call("answered")["billed"] is True


def test_not_json_is_a_page_with_200(provider: Provider) -> None:
    response = provider.ask("[[sim: not-json]]")
    assert (response.status_code, response.headers["content-type"]) == (200, "text/html; charset=UTF-8")
    assert response.text.startswith("<!DOCTYPE html>")
    assert provider.await_call("dropped")["billed"] is True


@pytest.mark.parametrize("stream", [False, True])
def test_no_body_is_an_empty_200(provider: Provider, *, stream: bool) -> None:
    response = provider.ask("[[sim: no-body]]", stream=stream)
    assert (response.status_code, response.content) == (200, b"")
    provider.await_call("dropped")


def test_garbage_is_not_http(provider: Provider) -> None:
    with provider.raw("[[sim: garbage]]") as call:
        got, _ = call.read_to_end()
    assert not got.startswith(b"HTTP/")
    assert got


def test_faults_can_be_delayed(provider: Provider) -> None:
    with provider.raw("[[sim: drop delay=0.15]]") as call:
        began = time.monotonic()
        assert call.read_to_end() == (b"", True)
    assert time.monotonic() - began >= 0.14
    assert provider.ask("[[sim: 504 delay=0.1]]").elapsed.total_seconds() >= 0.1
