"""The process: its flags, its end, and the number of calls that it holds."""

import asyncio
import resource
import signal
import subprocess
import sys
import time
from http import HTTPStatus

import psutil
import pytest

from tests.simulator.provider import ROOT, Provider, http_request, running

HELD_CALLS = 2000


def test_flags_become_options() -> None:
    flags = ("--chaos", "1", "--seed", "7", "--chaos-mix", '{"418": 1}', "--models", "a/b,c/d", "--native-background")
    with running(*flags) as provider:
        options = provider.http.get("/_script").json()
        assert (options["seed"], options["models"], options["native_background"]) == (7, ["a/b", "c/d"], True)
        assert provider.ask(model="c/d").status_code == HTTPStatus.IM_A_TEAPOT


def test_a_wrong_flag_is_named() -> None:
    command = [sys.executable, "-m", "simulator", "--chaos", "2", "--script", "fulll"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=30)
    assert ended.returncode == 2
    assert "--chaos: Input should be less than or equal to 1" in ended.stderr
    assert "--script: Value error, unknown behaviour 'fulll'" in ended.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.long)])
def test_it_stops_at_once_with_calls_in_flight(number: signal.Signals) -> None:
    with running() as provider, provider.raw("[[sim: full delay=60]]") as call:
        provider.await_call("running")
        began = time.monotonic()
        provider.process.send_signal(number)
        assert provider.process.wait(timeout=5) == 0
        assert time.monotonic() - began < 2
        assert call.read_to_end()[0] == b""


@pytest.mark.long
def test_thousands_of_calls_are_held_at_once() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < HELD_CALLS + 200:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(HELD_CALLS + 200, hard), hard))
    with running() as provider:
        provider.ask()
        asyncio.run(hold_calls(provider))


async def hold_calls(provider: Provider) -> None:
    process = psutil.Process(provider.process.pid)
    before = process.memory_info().rss
    body = provider.body("[[sim: full delay=60]] Think")
    connections = await asyncio.gather(
        *(asyncio.open_connection("127.0.0.1", provider.port) for _ in range(HELD_CALLS))
    )
    for number, (_, writer) in enumerate(connections):
        writer.write(http_request(body, f"job_{number}:1"))
    await asyncio.to_thread(
        provider.await_calls, lambda call_log: bool(call_log["summary"]["in_flight"] == HELD_CALLS), limit=0
    )
    assert (process.memory_info().rss - before) / HELD_CALLS < 20 * 1024
    began = time.monotonic()
    for _, writer in connections:
        writer.transport.abort()
    call_log = await asyncio.to_thread(
        provider.await_calls, lambda call_log: bool(call_log["summary"]["in_flight"] == 0), limit=0
    )
    assert time.monotonic() - began < 2
    assert call_log["summary"]["outcomes"] == {"answered": 1, "client_disconnected": HELD_CALLS}
