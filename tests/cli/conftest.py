"""A terminal's environment for the client commands."""

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
    """A working directory without settings."""
    for name in list(os.environ):
        if name.startswith(OURS):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def fake() -> Fake:
    """What the server does."""
    return Fake()


@pytest.fixture
def server(fake: Fake) -> Iterator[FakeServer]:
    """The server that `backburner` talks to."""
    with FakeServer(fake) as running:
        yield running


@pytest.fixture
def backburner(home: Path, server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs a client command as its user."""
    monkeypatch.setenv("BACKBURNER_BASE_URL", server.url)
    monkeypatch.setenv("BACKBURNER_API_KEY", KEY)

    def run(*arguments: str, stdin: str = "") -> Result:
        return CliRunner().invoke(app, arguments, input=stdin)

    return run
