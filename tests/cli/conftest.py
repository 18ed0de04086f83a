"""An environment and a server for the client commands."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cli.main import app
from tests.cli.running import OURS
from tests.cli.server import KEY, Fake, FakeServer

Command = Callable[..., Result]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to an empty working directory, without settings in the environment."""
    for name in list(os.environ):
        if name.startswith(OURS):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def fake() -> Fake:
    """The behaviour of the server."""
    return Fake()


@pytest.fixture
def server(fake: Fake) -> Iterator[FakeServer]:
    """The server that `backburner` calls."""
    with FakeServer(fake) as running:
        yield running


@pytest.fixture
def backburner(home: Path, server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Return a function that runs a client command with the server's address and key."""
    monkeypatch.setenv("BACKBURNER_BASE_URL", server.url)
    monkeypatch.setenv("BACKBURNER_API_KEY", KEY)

    def run(*arguments: str, stdin: str = "") -> Result:
        return CliRunner().invoke(app, arguments, input=stdin)

    return run
