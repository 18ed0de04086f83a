"""The parts of an error that a log may show."""

import subprocess
import sys

import pytest

BREAKING = """
import sys
from jobs.settings import Settings
from jobs.telemetry import configure_logging, get_logger

configure_logging(Settings(_env_file=None, log_format=sys.argv[1]))

def handle(prompt):
    raise RuntimeError("it broke")

try:
    handle("".join(["the-secret-", "prompt"]))
except RuntimeError:
    get_logger("test").exception("request broke")
"""


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_a_traceback_shows_no_values(log_format: str) -> None:
    ran = subprocess.run([sys.executable, "-c", BREAKING, log_format], capture_output=True, text=True, check=True)
    assert "it broke" in ran.stderr
    assert "the-secret-prompt" not in ran.stderr
