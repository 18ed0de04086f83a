"""`doctor` and `/readyz` report the same about the same server: neither passes what the other does not."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, delete, text

from cli.doctor.result import Level
from cli.doctor.run import run_checks
from jobs.broker_names import Names
from jobs.errors import ErrorKind
from jobs.store import provider_limits, schema, workers
from jobs.store.database import database_now
from tests.api.world import Server, serve, settings_for
from tests.conftest import migrated_database
from tests.support.records import make_key, make_spec, submit_one
from tests.support.valkey import ValkeyServer
from tests.support.valkey_faults import replica
from tests.support.waiting import await_until

ROWS = {"migrations": "database", "pick-up": "waiting", "provider": "provider limit"}
"""The row of `doctor` for each name in `missing`, where it has another name."""
SHARED = {"database", "broker", "worker", "waiting", "provider limit"}
MAX_WAIT = timedelta(seconds=10)


@pytest.fixture(scope="module")
def shared_valkey() -> Iterator[ValkeyServer]:
    with ValkeyServer() as valkey:
        yield valkey


@pytest.fixture(scope="module")
def shared_server(
    request: pytest.FixtureRequest, shared_valkey: ValkeyServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    provider, folder = "https://provider.invalid/v1", tmp_path_factory.mktemp("data")
    with migrated_database(request, "sqlite") as url:
        settings = settings_for(url, shared_valkey.url, data_dir=folder, provider_base_url=provider)
        with serve(settings) as server:
            yield server


@pytest.fixture
def server(shared_server: Server) -> Iterator[Server]:
    """A server with one healthy worker."""
    database = shared_server.database
    with database.begin() as tx:
        release = tx.execute(text("SELECT version_num FROM alembic_version")).scalar_one()
        workers.register(tx, "here", 1, 100, database_now(tx))
    yield shared_server
    with database.begin() as tx:
        for each in (schema.jobs, schema.workers, schema.provider_limits):
            tx.execute(delete(each))
        tx.execute(text("UPDATE alembic_version SET version_num = :release"), {"release": release})


def reports_of(server: Server) -> tuple[Any, dict[Level, set[str]], str]:
    """Return the answer of `/readyz`, the rows of `doctor` by level, and its messages as one text."""
    with server.client() as client:
        body = client.get("/readyz").json()
    results = list(run_checks(server.settings))
    rows = {level: {each.name for each in results if each.level is level} for level in Level}
    return body, rows, "\n".join(each.message for each in results)


def only_worker(tx: Connection) -> str:
    (worker,) = workers.live_workers(tx, database_now(tx), MAX_WAIT)
    return worker.id


def reports(**facts: Any) -> Callable[[Server], None]:
    """Return a change that writes a worker's heartbeat with these facts."""
    report = workers.Report(**{"queues": None, "slots": 100, "took_ago": None, **facts})

    def heartbeat(server: Server) -> None:
        with server.database.begin() as tx:
            assert workers.heartbeat(tx, only_worker(tx), database_now(tx), report=report)

    return heartbeat


def silence(server: Server) -> None:
    with server.database.begin() as tx:
        workers.mark_silent_dead(tx, database_now(tx) + timedelta(minutes=1), MAX_WAIT)


def drain(server: Server) -> None:
    with server.database.begin() as tx:
        workers.heartbeat(tx, only_worker(tx), database_now(tx), draining=True)


def pause_provider(pause: float) -> Callable[[Server], None]:
    def pause_it(server: Server) -> None:
        provider_limit, kind = server.settings.provider_name, ErrorKind.BAD_CREDENTIALS
        with server.database.begin() as tx:
            now = database_now(tx)
            provider_limits.pause(
                tx, provider_limit, kind, now, now, because="HTTP 401", pause=timedelta(seconds=pause)
            )

    return pause_it


def stand_still(server: Server) -> None:
    """Let a job be due that a listening worker does not take."""
    reports(queues=(workers.CALLS,))(server)
    with server.database.begin() as tx:
        now = database_now(tx)
    key = make_key(server.database, f"a key {now}", now)
    with server.database.begin() as tx:
        submit_one(tx, make_spec(key.id, deadline_at=now + timedelta(days=1)), now - timedelta(minutes=1))


def be_busy(server: Server) -> None:
    """Let a job be due while the worker takes others."""
    stand_still(server)
    reports(queues=(workers.CALLS,), took_ago=timedelta(seconds=1))(server)


def be_of_another_release(server: Server) -> None:
    with server.database.begin() as tx:
        tx.execute(text("UPDATE alembic_version SET version_num = 'another'"))


def be_well(_: Server) -> None:
    """Change nothing."""


def assert_they_agree(body: Any, rows: dict[Level, set[str]], messages: str) -> None:
    wrong = rows[Level.ERROR] & SHARED
    assert {ROWS.get(each, each) for each in body["missing"]} <= wrong
    assert bool(wrong) is bool(body["missing"])
    for reason in [*body["reasons"].values(), *body["warnings"]]:
        assert reason.partition(", next try")[0] in messages
    assert len(body["warnings"]) == len(rows[Level.WARNING] & {"limits", "answers", "clocks"})
    if body["waiting"] is not None:
        assert body["waiting"]["reason"] in messages


@pytest.mark.one_database
@pytest.mark.parametrize(
    ("change", "missing", "warnings"),
    [
        (be_well, [], 0),
        (silence, ["worker"], 0),
        (drain, ["worker"], 0),
        (reports(queues=()), ["worker"], 0),
        (reports(slots=40, short_of="too many open files"), [], 1),
        (reports(unrecorded=15), [], 1),
        (reports(host_ahead=timedelta(hours=-2)), [], 1),
        (pause_provider(60), ["provider"], 0),
        (pause_provider(-60), [], 0),
        (stand_still, ["pick-up"], 0),
        (be_busy, [], 0),
        (be_of_another_release, ["migrations"], 0),
    ],
)
def test_they_agree(change: Callable[[Server], object], missing: list[str], warnings: int, server: Server) -> None:
    change(server)
    body, rows, messages = reports_of(server)
    assert (body["missing"], len(body["warnings"])) == (missing, warnings)
    assert_they_agree(body, rows, messages)


@pytest.mark.one_database
@pytest.mark.parametrize(
    ("change", "missing"),
    [(silence, ["worker", "broker"]), (reports(queues=()), ["broker"]), (stand_still, ["broker"])],
)
def test_they_agree_while_the_broker_is_away(
    change: Callable[[Server], object], missing: list[str], server: Server, shared_valkey: ValkeyServer
) -> None:
    """Without a broker no worker can listen, so none of them is reported for that."""
    change(server)
    with replica(shared_valkey):
        body, rows, messages = reports_of(server)
    assert body["missing"] == missing
    assert_they_agree(body, rows, messages)
    task_queue = server.state.task_queue
    await_until(lambda: task_queue.unavailable_reason(None) is None, 5, "the broker is not tried again")


@pytest.mark.one_database
def test_both_report_a_key_that_is_no_queue(server: Server, shared_valkey: ValkeyServer) -> None:
    assert server.settings.namespace is not None
    calls = Names(server.settings.namespace).calls
    with shared_valkey.client() as client:
        client.set(calls, "not a list")
        body, rows, messages = reports_of(server)
        client.delete(calls)
    assert body["missing"] == ["broker"]
    assert "WRONGTYPE" in body["reasons"]["broker"]
    assert_they_agree(body, rows, messages)
    task_queue = server.state.task_queue
    await_until(lambda: task_queue.unavailable_reason(None) is None, 5, "the broker is not tried again")


@pytest.mark.one_database
def test_both_report_a_database_that_cannot_be_reached(shared_valkey: ValkeyServer, tmp_path: Path) -> None:
    settings = settings_for("postgresql://nobody@127.0.0.1:1/none", shared_valkey.url, data_dir=tmp_path)
    with serve(settings) as server:
        body, rows, messages = reports_of(server)
    assert body["missing"] == ["database"]
    assert rows[Level.ERROR] & SHARED == {"database"}
    assert body["reasons"]["database"] in messages
