"""A child dies with its supervisor. On Linux the kernel kills it, elsewhere a guard process does."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from cli.up.supervisor import DIE_WITH_PARENT
from tests.cli.running import is_alive
from tests.support.waiting import await_until

SUPERVISOR = """
import os, subprocess, sys, time
reader, writer = os.pipe()
pipe = str(reader) if sys.argv[2] == "guard" else ""
sleeper = [sys.executable, "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(600)"]
wrapper = [sys.executable, "-I", "-S", sys.argv[1], str(os.getpid()), pipe]
with subprocess.Popen(wrapper + sleeper, start_new_session=True, pass_fds=[reader]) as child:
    os.close(reader)
    child.wait()
"""


@pytest.fixture(params=["kernel", "guard"])
def supervisor(request: pytest.FixtureRequest) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", SUPERVISOR, str(DIE_WITH_PARENT), request.param]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def child_of(supervisor: "subprocess.Popen[str]") -> int:
    assert supervisor.stdout is not None
    return int(supervisor.stdout.readline())


def test_a_child_dies_with_a_killed_supervisor(supervisor: "subprocess.Popen[str]") -> None:
    child = child_of(supervisor)
    with supervisor:
        supervisor.kill()
    await_until(lambda: not is_alive(child), 5, "the child outlived its supervisor")


def test_no_process_is_left_when_the_child_ends(supervisor: "subprocess.Popen[str]") -> None:
    child = child_of(supervisor)
    family = psutil.Process(supervisor.pid).children(recursive=True)
    assert child in {each.pid for each in family}
    os.kill(child, signal.SIGTERM)
    with supervisor:
        supervisor.wait(10)
    await_until(lambda: not any(is_alive(each.pid) for each in family), 5, "a guard is still running")


def test_a_child_whose_supervisor_has_died_does_not_start(tmp_path: Path) -> None:
    started = tmp_path / "started"
    command = [sys.executable, "-I", "-S", str(DIE_WITH_PARENT), "1", "", "touch", str(started)]
    assert subprocess.run(command, check=False).returncode == 1
    assert not started.exists()


def test_a_missing_command_is_reported() -> None:
    command = [sys.executable, "-I", "-S", str(DIE_WITH_PARENT), str(os.getpid()), "", "no-such-command"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (127, "cannot run no-such-command: No such file or directory\n")
