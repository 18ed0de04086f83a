"""The data directory is private, locked by one process, and keeps the generated key."""

import stat
import subprocess
import sys
from pathlib import Path

import pytest

from cli.errors import CommandFailed
from cli.up.data_dir import ensure_api_key, locked

LOCK_AND_WAIT = """
import sys
from pathlib import Path
from cli.up.data_dir import locked
with locked(Path(sys.argv[1])) as was_killed:
    print(was_killed, flush=True)
    sys.stdin.read()
"""


def lock_elsewhere(path: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", LOCK_AND_WAIT, str(path)]
    owner = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    assert owner.stdout.readline() == "False\n"
    return owner


def test_a_new_directory_is_private(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "data"
    with locked(path) as was_killed:
        assert not was_killed
        assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_a_locked_directory_is_refused_with_the_pid_of_its_owner(tmp_path: Path) -> None:
    with lock_elsewhere(tmp_path) as owner:
        with pytest.raises(CommandFailed, match=rf"pid {owner.pid}\) already runs on {tmp_path}"), locked(tmp_path):
            pass
        owner.communicate()
    with locked(tmp_path) as was_killed:
        assert not was_killed


def test_a_killed_owner_leaves_no_lock_but_is_noticed(tmp_path: Path) -> None:
    with lock_elsewhere(tmp_path) as owner:
        owner.kill()
    with locked(tmp_path) as was_killed:
        assert was_killed


def test_the_key_is_generated_once_and_stays_private(tmp_path: Path) -> None:
    key = ensure_api_key(tmp_path)
    (tmp_path / "api_key").chmod(0o644)
    assert ensure_api_key(tmp_path) == key
    assert (tmp_path / "api_key").read_text() == key
    assert stat.S_IMODE((tmp_path / "api_key").stat().st_mode) == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["api_key"]


def test_an_empty_key_file_is_filled(tmp_path: Path) -> None:
    (tmp_path / "api_key").touch()
    assert ensure_api_key(tmp_path).startswith("bb_")


def test_a_directory_that_cannot_be_created_is_reported_with_its_variable(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "data"
    with (
        pytest.raises(CommandFailed, match=f"BACKBURNER_DATA_DIR: cannot write to {path}: Not a directory"),
        locked(path),
    ):
        pass
