"""What every command does when it cannot do what it was asked: one line, an exit status, no traceback."""

import socket
import sqlite3
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app
from tests.cli.running import run


def refused(*arguments: str, cwd: Path, **settings: str) -> str:
    """What a command that fails says, after a look that it says nothing else."""
    done = run(*arguments, cwd=cwd, **settings)
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.mark.parametrize("command", [("up",), ("api",), ("worker",), ("migrate",), ("keys", "list")])
def test_wrong_settings_stop_every_part_and_are_all_named(tmp_path: Path, command: tuple[str, ...]) -> None:
    said = refused(*command, cwd=tmp_path, port="high", worker_concurrency="0")
    assert said.splitlines()[0] == "Error: Settings are wrong:"
    assert {line.split(":")[0].strip() for line in said.splitlines()[1:]} == {
        "BACKBURNER_PORT",
        "BACKBURNER_WORKER_CONCURRENCY",
    }
    assert not list(tmp_path.iterdir())


def test_up_names_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        said = refused("up", cwd=tmp_path, port=str(port))
    assert said.startswith(f"Error: BACKBURNER_PORT: 127.0.0.1:{port} is taken by another program")
    assert said.count("\n") == 1


def test_up_names_a_data_directory_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said = refused("up", cwd=tmp_path, port="0", data_dir="file")
    assert said == "Error: BACKBURNER_DATA_DIR: cannot write to file: File exists\n"


def test_migrate_makes_the_tables_and_may_be_run_again(tmp_path: Path) -> None:
    for _ in range(2):
        assert run("migrate", cwd=tmp_path).returncode == 0
    with sqlite3.connect(tmp_path / ".backburner/backburner.db") as database:
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    database.close()
    assert {"jobs", "attempts", "workers", "api_keys"} <= tables


def test_a_database_that_cannot_be_reached_is_one_line_without_its_password(tmp_path: Path) -> None:
    said = refused("migrate", cwd=tmp_path, database_url="postgresql://someone:hush@127.0.0.1:1/name")
    assert said.startswith("Error: BACKBURNER_DATABASE_URL: postgresql://someone:***@127.0.0.1:1/name: ")
    assert said.count("\n") == 1
    assert "hush" not in said


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
