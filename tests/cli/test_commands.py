"""Failures of all commands: one line, an exit status, no traceback."""

import socket
import sqlite3
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app
from tests.cli.running import run


def failure_of(*arguments: str, cwd: Path, **settings: str) -> str:
    """Run a command that fails; return its stderr, after checking that stdout is empty."""
    done = run(*arguments, cwd=cwd, **settings)
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.mark.parametrize("command", [("up",), ("api",), ("worker",), ("migrate",), ("keys", "list")])
def test_wrong_settings_stop_every_part_and_all_are_reported(tmp_path: Path, command: tuple[str, ...]) -> None:
    message = failure_of(*command, cwd=tmp_path, port="high", worker_concurrency="0")
    assert message.splitlines()[0] == "Error: Settings are wrong:"
    assert {line.split(":")[0].strip() for line in message.splitlines()[1:]} == {
        "BACKBURNER_PORT",
        "BACKBURNER_WORKER_CONCURRENCY",
    }
    assert not list(tmp_path.iterdir())


def test_up_reports_a_taken_port(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        message = failure_of("up", cwd=tmp_path, port=str(port))
    assert message.startswith(f"Error: BACKBURNER_PORT: 127.0.0.1:{port} is taken by another program")
    assert message.count("\n") == 1


def test_up_reports_a_data_directory_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    message = failure_of("up", cwd=tmp_path, port="0", data_dir="file")
    assert message == "Error: BACKBURNER_DATA_DIR: cannot write to file: File exists\n"


def test_migrate_creates_the_tables_and_can_be_repeated(tmp_path: Path) -> None:
    for _ in range(2):
        assert run("migrate", cwd=tmp_path).returncode == 0
    with sqlite3.connect(tmp_path / ".backburner/backburner.db") as database:
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    database.close()
    assert {"jobs", "attempts", "workers", "api_keys"} <= tables


def test_an_unreachable_database_is_one_line_without_its_password(tmp_path: Path) -> None:
    message = failure_of("migrate", cwd=tmp_path, database_url="postgresql://someone:hush@127.0.0.1:1/name")
    assert message.startswith("Error: BACKBURNER_DATABASE_URL: postgresql://someone:***@127.0.0.1:1/name: ")
    assert message.count("\n") == 1
    assert "hush" not in message


def test_simulate_passes_its_arguments_on(tmp_path: Path) -> None:
    done = run("simulate", "--no-such-option", cwd=tmp_path)
    assert done.returncode == 2
    assert "simulator: error" in done.stderr


@pytest.mark.parametrize("arguments", [("no-such-command",), ("get",), ("wait", "--timeout", "soon", "resp_1")])
def test_wrong_usage_exits_with_two(arguments: tuple[str, ...]) -> None:
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 2
    assert "Usage: " in done.stderr


def test_help_names_every_command() -> None:
    text = CliRunner().invoke(app, ["--help"]).stdout
    commands = "up api worker migrate simulate doctor submit get wait list cancel retry attempts usage keys webhooks"
    assert {line.split()[0] for line in text.partition("Commands:")[2].splitlines() if line} == set(commands.split())
