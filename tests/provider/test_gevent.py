"""The worker's pool is gevent's: what is tested with threads must also hold for greenlets."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PATCHED = "from gevent import monkey; monkey.patch_all(); import sys, pytest; sys.exit(pytest.main(sys.argv[1:]))"


@pytest.mark.long
def test_calls_end_the_same_under_gevent() -> None:
    files = [f"tests/provider/test_{name}.py" for name in ("abort", "client", "proxies", "transports")]
    command = [sys.executable, "-c", PATCHED, *files, "-q", "-p", "no:xdist", "-p", "no:cacheprovider"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
