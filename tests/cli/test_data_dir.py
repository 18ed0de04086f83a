"""The data directory: private, held by one, remembered key."""

import stat
import subprocess
import sys
from pathlib import Path

import pytest

from cli.errors import CommandFailed
from cli.up.data_dir import ensure_api_key, held

HOLDER = """
import sys
from pathlib import Path
from cli.up.data_dir import held
with held(Path(sys.argv[1])) as was_killed:
    print(was_killed, flush=True)
    sys.stdin.read()
"""


def hold(path: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", HOLDER, str(path)]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "False\n"
    return holder


def test_a_new_directory_is_the_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "data"
    with held(path) as was_killed:
        assert not was_killed
        assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_a_second_holder_is_refused_and_told_who_holds_it(tmp_path: Path) -> None:
    with hold(tmp_path) as holder:
        with pytest.raises(CommandFailed, match=rf"pid {holder.pid}\) already runs on {tmp_path}"), held(tmp_path):
            pass
        holder.communicate()
    with held(tmp_path) as was_killed:
        assert not was_killed


def test_a_killed_holder_leaves_no_lock_but_a_trace(tmp_path: Path) -> None:
    with hold(tmp_path) as holder:
        holder.kill()
    with held(tmp_path) as was_killed:
        assert was_killed


def test_the_key_is_made_once_and_kept_private(tmp_path: Path) -> None:
    key = ensure_api_key(tmp_path)
    (tmp_path / "api_key").chmod(0o644)
    assert ensure_api_key(tmp_path) == key
    assert (tmp_path / "api_key").read_text() == key
    assert stat.S_IMODE((tmp_path / "api_key").stat().st_mode) == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["api_key"]


def test_an_empty_key_file_is_filled(tmp_path: Path) -> None:
    (tmp_path / "api_key").touch()
    assert ensure_api_key(tmp_path).startswith("bb_")


def test_a_directory_that_cannot_be_made_is_named_with_its_variable(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "data"
    with (
        pytest.raises(CommandFailed, match=f"BACKBURNER_DATA_DIR: cannot write to {path}: Not a directory"),
        held(path),
    ):
        pass
