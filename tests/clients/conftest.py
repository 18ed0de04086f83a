"""Every client in every world, played once for all tests of a run."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.clients.programs import CLIENTS, Client, Run
from tests.clients.worlds import CallLog, all_worlds, through_us

# each program plays six scenarios at a time, on a machine of two cores
AT_ONCE = 3
LOOPS = ("langchain", "openai-agents", "ai-sdk")


@dataclass(frozen=True)
class Played:
    """Output of the clients, and calls counted by the providers."""

    runs: dict[str, Run]
    call_logs: dict[str, CallLog]


@pytest.fixture(scope="session")
def played(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Played:
    """All scenarios of all clients in all worlds."""
    runs = {client.name: Run(client) for client in CLIENTS}
    with all_worlds(sqlite_template, tmp_path_factory.mktemp("clients")) as worlds:
        settings = {name: world.settings for name, world in worlds.items()}
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(lambda run: run.play(settings), runs.values()))
        return Played(runs, {name: world.call_log() for name, world in worlds.items()})


@pytest.fixture(scope="session")
def smoked(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Played:
    """One scenario of each client, through this server to the strictest provider."""
    runs = {client.name: Run(client) for client in CLIENTS if client.smoke}
    database = tmp_path_factory.mktemp("smoke") / "backburner.db"
    shutil.copyfile(sqlite_template, database)
    with through_us("strict-plain", database) as world:
        settings = {world.name: world.settings}
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(lambda run: run.play(settings, [str(run.client.smoke)]), runs.values()))
        return Played(runs, {world.name: world.call_log()})


@pytest.fixture(scope="session")
def looped(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Played:
    """Tool loops of three turns, of each client that has them, with a provider that has OpenAI's rules."""
    runs = {client.name: Run(client) for client in CLIENTS if client.name in LOOPS}
    database = tmp_path_factory.mktemp("loops") / "backburner.db"
    shutil.copyfile(sqlite_template, database)
    with through_us("openai-stream", database) as world:
        settings = {world.name: world.settings}
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(lambda run: run.play(settings, ["three_turns"]), runs.values()))
        return Played(runs, {world.name: world.call_log()})


@pytest.fixture(params=CLIENTS, ids=lambda client: client.name)
def client(request: pytest.FixtureRequest) -> Client:
    found: Client = request.param
    return found
