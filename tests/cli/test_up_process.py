"""Start and stop of `up`, with stand-ins for its parts and real signals."""

import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.cli.running import ROOT, Running, environment, is_alive, still_running
from tests.cli.up_processes import STAND_IN
from tests.support.waiting import await_until


class UpProcess(Running):
    def __init__(self, directory: Path, trait: str) -> None:
        self.log = directory / "log"
        super().__init__((sys.executable, "-m", "tests.cli.up_processes", str(self.log), trait), ROOT, environment())

    def noted(self, pattern: str) -> list[str]:
        return re.findall(pattern, self.log.read_text() if self.log.exists() else "", re.MULTILINE)

    def wait_until_up(self) -> None:
        """Wait for the supervisor's message and for each part's own note, which may come later."""
        self.match("announced")
        for server in ("worker", "api"):
            self.wait_for(f"^{server} started")

    def pid(self, name: str) -> int:
        """Return the pid of the latest process of that name."""
        return int(self.noted(rf"^{name} started (\d+)$")[-1])

    def left(self) -> list[str]:
        """Return the command lines of stand-ins that are still running."""
        lines = [" ".join(each.info["cmdline"] or ()) for each in psutil.process_iter(["cmdline"])]
        return [line for line in lines if STAND_IN.name in line and str(self.log) in line]

    def wait_for(self, pattern: str) -> None:
        await_until(lambda: self.noted(pattern), 15, lambda: f"{pattern!r} not noted:\n{self.output}")


@contextmanager
def up_process(directory: Path, trait: str = "") -> Iterator[UpProcess]:
    with UpProcess(directory, trait) as running:
        yield running


@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_the_worker_before_its_dependencies(tmp_path: Path, which: signal.Signals) -> None:
    with up_process(tmp_path) as running:
        running.wait_until_up()
        children = running.children()
        running.signal(which)

        assert running.exit_status() == 0
        assert not still_running(children)
        assert running.noted(r"^(\w+) SIG") == ["worker", "api", "store"]
        assert "stopping: 2 calls may finish, up to 60 s; Ctrl-C again to hand them back now" in running.output


def test_dependencies_and_migration_come_before_the_servers(tmp_path: Path) -> None:
    with up_process(tmp_path) as running:
        running.wait_until_up()
        started = running.noted(r"^(\w+) started")
        assert set(started[:2]) == {"store", "migrate"}
        assert set(started[2:]) == {"worker", "api"}
        running.match(r"^api +\| asked")


def test_no_server_starts_after_a_failed_migration(tmp_path: Path) -> None:
    with up_process(tmp_path, "broken") as running:
        assert running.exit_status() == 1
        assert running.lines[-1] == "migrate exited with status 3; its own lines above say why"
        assert not running.noted(r"^(worker|api) started")
        assert not running.left()


def test_a_missing_part_is_reported_and_waited_for(tmp_path: Path) -> None:
    with up_process(tmp_path, "unready") as running:
        running.match(r"not ready after 0\.5 s: missing: a live worker; still waiting")
        assert "announced" not in running.output
        running.signal(signal.SIGINT)
        assert running.exit_status() == 0


def test_a_signal_during_startup_stops_what_has_started(tmp_path: Path) -> None:
    with up_process(tmp_path) as running:
        running.wait_for("store started")
        running.signal(signal.SIGINT)
        assert running.exit_status() == 0
        assert not is_alive(running.pid("store"))


def test_a_second_signal_forces_the_worker_to_stop(tmp_path: Path) -> None:
    with up_process(tmp_path, "stubborn") as running:
        running.wait_until_up()
        running.signal(signal.SIGINT)
        running.wait_for("worker SIGTERM")
        running.signal(signal.SIGINT)
        assert running.exit_status() == 0
        assert running.noted(r"^(\w+ SIG\w+)") == ["worker SIGTERM", "worker SIGQUIT", "api SIGTERM", "store SIGTERM"]


def test_a_third_signal_kills_a_worker_that_does_not_end(tmp_path: Path) -> None:
    with up_process(tmp_path, "deaf") as running:
        running.wait_until_up()
        worker = running.pid("worker")
        for received in ("SIGTERM", "SIGQUIT"):
            running.signal(signal.SIGINT)
            running.wait_for(f"worker {received}")
        running.signal(signal.SIGINT)
        assert running.exit_status() == 0
        assert "worker does not end; killing it" in running.output
        assert not is_alive(worker)


def test_a_worker_is_not_forced_while_it_records_paid_answers(tmp_path: Path) -> None:
    with up_process(tmp_path, "recording") as running:
        running.wait_until_up()
        running.signal(signal.SIGTERM)
        running.match("recording 2 paid answers; Ctrl-C again gives them up")
        (tmp_path / "recorded").touch()
        assert running.exit_status() == 0
        assert running.noted(r"^(\w+ SIG\w+)")[:2] == ["worker SIGTERM", "worker SIGQUIT"]


def test_a_second_signal_stops_a_worker_that_records_paid_answers(tmp_path: Path) -> None:
    with up_process(tmp_path, "recording") as running:
        running.wait_until_up()
        running.signal(signal.SIGINT)
        running.match("recording 2 paid answers; Ctrl-C again gives them up")
        running.signal(signal.SIGINT)
        running.wait_for("worker SIGQUIT")
        assert running.exit_status() == 0


def test_the_children_of_a_killed_supervisor_die(tmp_path: Path) -> None:
    with up_process(tmp_path, "deaf") as running:
        running.wait_until_up()
        children = running.children()
        assert len(children) == 3
        running.signal(signal.SIGKILL)
        await_until(lambda: not still_running(children), 5, "children outlived their supervisor")


def test_a_reader_that_closes_the_pipe_stops_nothing(tmp_path: Path) -> None:
    with up_process(tmp_path) as running:
        running.wait_until_up()
        known = running.pid("worker")
        running.stop_reading()
        os.kill(known, signal.SIGKILL)  # the line that reports it is the last one read
        await_until(lambda: running.pid("worker") != known, 10, "the worker was not started again")
        running.signal(signal.SIGTERM)
        assert running.popen.wait(10) == 0
        assert running.noted(r"^(\w+) SIG") == ["worker", "api", "store"]


def test_a_child_that_keeps_dying_is_reported_and_restarted_after_growing_pauses(tmp_path: Path) -> None:
    with up_process(tmp_path) as running:
        running.wait_until_up()
        pids = [running.pid("worker")]
        while len(pids) <= 4:
            os.kill(pids[-1], signal.SIGKILL)
            await_until(lambda: running.pid("worker") not in pids, 10, "the worker was not started again")
            pids.append(running.pid("worker"))
        paused = [line for line in running.lines if "worker was killed" in line]
        assert [line.rsplit(" ", 2)[1] for line in paused] == ["0.05", "0.1", "0.2", "0.2"]
