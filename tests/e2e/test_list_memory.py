"""Listing huge requests does not make the API grow."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.support.stack import MODEL, Stack
from tests.support.valkey import ValkeyServer

pytestmark = pytest.mark.long

HUGE = 10_000_000
JOBS = 20
AT_ONCE = 6
MEGABYTE = 1 << 20


@pytest.fixture
def stack(database_url: str, valkey: ValkeyServer, tmp_path: Path) -> Iterator[Stack]:
    with Stack(database_url, valkey.url, tmp_path, workers=0) as stack:
        yield stack


@contextmanager
def peak_of(process: psutil.Process) -> Iterator[list[int]]:
    """Largest resident size seen, in bytes."""
    peak = [process.memory_info().rss]
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.01):
            peak[0] = max(peak[0], process.memory_info().rss)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


def test_six_lists_of_huge_instructions_at_once(stack: Stack) -> None:
    body = {"model": MODEL, "input": "x", "background": True, "run_at": time.time() + 3600}
    with stack.http() as http:
        for _ in range(JOBS):
            http.post("/responses", json=body | {"instructions": "x" * HUGE}).raise_for_status()
    api = psutil.Process(stack.api.popen.pid)

    def list_all(_: object) -> int:
        with stack.http() as http:
            answer = http.get("/responses", params={"limit": 100}).raise_for_status()
        assert len(answer.json()["data"]) == JOBS
        return len(answer.content)

    before = api.memory_info().rss
    with peak_of(api) as peak, ThreadPoolExecutor(AT_ONCE) as pool:
        sizes = list(pool.map(list_all, range(AT_ONCE)))
    assert max(sizes) < 100_000
    # each of four reads holds one row: as it was kept, as text, and as it was parsed
    assert peak[0] - before < 4 * 5 * HUGE, f"{before // MEGABYTE} MB became {peak[0] // MEGABYTE} MB"
