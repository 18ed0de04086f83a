"""A short run of `make chaos`, through its command. The long ones are in docs/chaos.md."""

import re
import subprocess
import sys

import pytest

from tests.chaos.verdict import TITLES
from tests.support.stack import ROOT

pytestmark = pytest.mark.long

SHORT = ("--jobs", "70", "--seed", "7", "--pace", "8", "--density", "3")


@pytest.mark.timeout(400)
def test_a_short_run_keeps_every_promise_and_counts_what_it_checked() -> None:
    command = [sys.executable, "-m", "tests.chaos", *SHORT]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=350, check=False)

    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stdout.startswith("seed 7, 70 jobs, transport plain\n")
    counted = {int(number): int(count) for number, count in re.findall(r"promise (\d+),.*: (\d+) checks", ended.stdout)}
    assert counted.keys() == TITLES.keys()
    assert all(count > 0 for count in counted.values()), ended.stdout
    assert ended.stdout.endswith("  no violation\n")
