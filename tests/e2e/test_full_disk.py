"""A full disk under SQLite is named, creates get 503, nothing is lost, and work resumes once there is room."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.stack import Stack
from tests.support.waiting import await_until

pytestmark = pytest.mark.long

ROOM = "12m"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder with little space."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("no disk can be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_is_named_and_nothing_is_lost(small_disk: Path, valkey_url: str) -> None:
    url = f"sqlite:///{small_disk / 'backburner.db'}"
    with Stack(url, valkey_url, small_disk, provider_flags=("--delay", "3")) as stack, stack.http() as http:
        jobs = stack.submit_many(5, "Hello")
        await_until(lambda: len(stack.calls()) == len(jobs), 20, stack.logs)
        filler = small_disk / "filler"
        with filler.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(b"x" * 65_536)
            except OSError:
                pass

        def refused() -> httpx.Response | None:
            body = {"model": "openai/o3-pro", "input": "x" * 100_000, "background": True}
            response = http.post("/responses", json=body)
            if response.status_code == 200:
                jobs.append(response.json()["id"])
            return response if response.status_code == 503 else None

        response = await_until(refused, 20, stack.logs)
        assert "retry-after" in response.headers

        def named() -> bool:
            return "disk is full" in httpx.get(f"{stack.url}/readyz").text

        await_until(named, 10, stack.logs)
        await_until(lambda: "could not record" in stack.logs(), 10, stack.logs)
        filler.unlink()
        stack.await_all(jobs, "completed", 30)
        assert len(stack.calls()) == len(jobs)
        await_until(lambda: httpx.get(f"{stack.url}/readyz").status_code == 200, 20, stack.logs)
