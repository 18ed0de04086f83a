"""`backburner doctor`: each thing that can be wrong is found, named and hinted at, and no secret is shown."""

import json
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import date, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest
from typer.testing import CliRunner

from cli.doctor.local import SOON, check_shutdown_dates
from cli.doctor.result import Level
from cli.main import app
from cli.up import valkey
from jobs.model_catalog import Catalogue
from jobs.settings import load_settings
from jobs.store import workers
from jobs.store.database import Database, database_now
from jobs.store.undelivered_creates import Process, heartbeat_process
from tests.simulator.provider import running
from tests.support.records import make_key, make_spec, submit_one
from tests.support.valkey import ClusterServer, ValkeyServer

SECRET = "provider-secret"


class Provider:
    """The provider's free routes. `billing` and `models` are what they answer."""

    def __init__(self) -> None:
        self.billing: tuple[int, dict[str, Any]] = (200, {"current_balance": 12.5, "currency": "USD"})
        self.models: tuple[int, dict[str, Any]] = (200, {"data": [{"id": "openai/o3-pro", "aliases": ["o3-pro"]}]})
        self.response: tuple[int, dict[str, Any]] = (404, {"message": "Cannot GET {path}"})
        self.asked: list[str] = []
        self.url = ""


@pytest.fixture
def provider() -> Iterator[Provider]:
    """A provider that is well."""
    provider = Provider()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            provider.asked.append(self.path)
            status, body = provider.billing if self.path.startswith("/v2/billing") else provider.models
            if self.path.startswith("/v1/responses/"):
                status, body = provider.response
            response_id = self.path.rpartition("/")[2]
            encoded = json.dumps(body).replace("{path}", self.path).replace("{id}", response_id).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(encoded)))
            self.end_headers()
            self.wfile.write(encoded)

        def log_message(self, *_: object) -> None:
            """Keep the test's output to itself."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        provider.url = f"http://127.0.0.1:{server.server_port}/v1"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield provider
        server.shutdown()
        thread.join()


@pytest.fixture
def healthy(
    home: Path, sqlite_url: str, valkey_url: str, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> pytest.MonkeyPatch:
    """Settings under which all is well; change what shall be wrong."""
    settings = {
        "DATABASE_URL": sqlite_url,
        "REDIS_URL": valkey_url,
        "PROVIDER_BASE_URL": provider.url,
        "PROVIDER_API_KEY": SECRET,
    }
    for name, value in settings.items():
        monkeypatch.setenv(f"BACKBURNER_{name}", value)
    database = Database(sqlite_url)
    with database.begin() as tx:
        workers.register(tx, "here", 1, 100, database_now(tx))
    database.close()
    return monkeypatch


def diagnose() -> tuple[int, dict[str, list[dict[str, str]]]]:
    """The exit status, and the findings by name."""
    done = CliRunner().invoke(app, ["doctor", "--json"])
    body = json.loads(done.stdout)
    assert body["ok"] is (done.exit_code == 0)
    findings: dict[str, list[dict[str, str]]] = {}
    for each in body["checks"]:
        findings.setdefault(each["name"], []).append(each)
        assert each["hint"] or each["status"] != "error"
    return done.exit_code, findings


def test_all_well(healthy: pytest.MonkeyPatch, provider: Provider) -> None:
    status, findings = diagnose()
    assert status == 0
    errors = [each for group in findings.values() for each in group if each["status"] == "error"]
    assert errors == []
    for name in ("settings", "data dir", "database", "worker", "redis", "broker", "limits", "provider"):
        assert findings[name][0]["status"] == "ok"
    assert findings["worker"][0]["message"] == "1 live, 100 calls at once"
    assert findings["provider key"][0]["message"] == "accepted, balance 12.50 USD"
    assert not [path for path in provider.asked if "responses" in path]


def test_the_base_urls_query_is_kept(healthy: pytest.MonkeyPatch, provider: Provider) -> None:
    healthy.setenv("BACKBURNER_PROVIDER_BASE_URL", f"{provider.url}?api-version=1")
    healthy.setenv("BACKBURNER_PROVIDER_TRANSPORT", "background")
    healthy.setenv("BACKBURNER_MODELS", "openai/o3-pro")
    _, findings = diagnose()
    assert "openai/o3-pro is offered" in [each["message"] for each in findings["model"]]
    assert findings["provider key"][0]["status"] == "ok"
    models, billing, response = (urlsplit(path) for path in provider.asked)
    assert (models.path, parse_qs(models.query)) == (
        "/v1/models",
        {"api-version": ["1"], "id": ["openai/o3-pro"], "include": ["pricing"]},
    )
    assert (billing.path, billing.query) == ("/v2/billing", "api-version=1")
    assert response.path.startswith("/v1/responses/")
    assert response.query == "api-version=1"


def test_a_person_sees_signs_and_hints(healthy: pytest.MonkeyPatch) -> None:
    healthy.setenv("BACKBURNER_REDIS_URL", "redis://:hush@127.0.0.1:1/0")
    done = CliRunner().invoke(app, ["doctor"])
    assert done.exit_code == 1
    assert "✓  database" in done.stdout
    assert "✗  redis" in done.stdout
    assert "→ check BACKBURNER_REDIS_URL" in done.stdout
    assert "hush" not in done.stdout


def test_plain_http_to_a_provider_elsewhere_is_warned_of(healthy: pytest.MonkeyPatch) -> None:
    healthy.delenv("BACKBURNER_PROVIDER_API_KEY")  # nothing is asked then
    _, findings = diagnose()
    assert "provider" not in findings
    healthy.setenv("BACKBURNER_PROVIDER_BASE_URL", "http://user:hush@provider.invalid/v1")
    _, findings = diagnose()
    [finding] = findings["provider"]
    assert finding["status"] == "warning"
    assert finding["message"].startswith("http://provider.invalid/v1 is plain http")
    assert "https" in finding["hint"]


def test_wrong_settings_are_the_only_finding(healthy: pytest.MonkeyPatch) -> None:
    healthy.setenv("BACKBURNER_PORT", "high")
    status, findings = diagnose()
    assert (status, list(findings)) == (1, ["settings"])
    assert "BACKBURNER_PORT" in findings["settings"][0]["message"]


Break = Callable[[pytest.MonkeyPatch, Provider], object]


@pytest.mark.parametrize(
    ("name", "words", "broken"),
    [
        ("data dir", "cannot be written to", lambda env, _: env.setenv("BACKBURNER_DATA_DIR", "/dev/null")),
        ("database", "does not exist yet", lambda env, _: env.delenv("BACKBURNER_DATABASE_URL")),
        (
            "database",
            "postgresql://someone:***@127.0.0.1:1/name",
            lambda env, _: env.setenv("BACKBURNER_DATABASE_URL", "postgresql://someone:hush@127.0.0.1:1/name"),
        ),
        ("redis", "no embedded Valkey is running", lambda env, _: env.delenv("BACKBURNER_REDIS_URL")),
        (
            "broker",
            "sentinel://",
            lambda env, _: env.setenv(
                "BACKBURNER_BROKER_URL", "sentinel://:hush@127.0.0.1:1/0?master_name=m&sentinel_password=hush"
            ),
        ),
        ("broker", "amqp://", lambda env, _: env.setenv("BACKBURNER_BROKER_URL", "amqp://me:hush@127.0.0.1:1//")),
        (
            "provider",
            "refused",
            lambda env, _: env.setenv("BACKBURNER_PROVIDER_BASE_URL", "http://127.0.0.1:1/v1"),
        ),
        *(
            (
                "provider",
                "cannot be used; proxies are http:// or https://",
                lambda env, _, name=name, value=value: env.setenv(name, value),
            )
            for name, value in (("http_proxy", "socks5://h:1"), ("http_proxy", "ftp://h"), ("no_proxy", "[::1"))
        ),
        ("model", "other is not offered", lambda env, _: env.setenv("BACKBURNER_MODELS", "other")),
        (
            "provider key",
            "refused with HTTP 401: the key *** is unknown",
            lambda _, provider: setattr(provider, "billing", (401, {"message": f"the key {SECRET} is unknown"})),
        ),
        (
            "provider key",
            "refused with HTTP 403: You've run out of credits",
            lambda _, provider: setattr(provider, "billing", (403, {"message": "You've run out of credits"})),
        ),
    ],
)
def test_what_is_broken_is_found(
    healthy: pytest.MonkeyPatch, provider: Provider, name: str, words: str, broken: Break
) -> None:
    broken(healthy, provider)
    status, findings = diagnose()
    assert status == 1
    (found,) = [each for each in findings[name] if each["status"] == "error"]
    assert words in found["message"]
    text = json.dumps(findings)
    assert "hush" not in text
    assert SECRET not in text


@pytest.mark.parametrize(
    ("name", "words", "odd"),
    [
        (
            "provider key",
            "this provider has no such route",
            lambda _, provider: setattr(provider, "billing", (404, {})),
        ),
        ("provider key", "balance 0.40 USD", lambda _, p: setattr(p, "billing", (200, {"current_balance": 0.4}))),
        ("provider key", "none", lambda env, _: env.delenv("BACKBURNER_PROVIDER_API_KEY")),
        ("model", "the provider lists no models", lambda _, provider: setattr(provider, "models", (404, {}))),
        ("model", "answers HTTP 500", lambda _, provider: setattr(provider, "models", (500, {}))),
    ],
)
def test_what_cannot_be_told_or_may_be_meant_is_a_warning(
    healthy: pytest.MonkeyPatch, provider: Provider, name: str, words: str, odd: Break
) -> None:
    odd(healthy, provider)
    status, findings = diagnose()
    assert status == 0
    assert [each for each in findings[name] if each["status"] == "warning" and words in each["message"]]


@pytest.mark.parametrize(
    ("answer", "status", "words"),
    [
        ((404, {"error": {"message": "Response with id '{id}' not found."}}), "ok", "can be fetched"),
        ((400, {"message": "Invalid id: {id}"}), "ok", "can be fetched"),
        ((404, {"message": "Cannot GET {path}"}), "warning", "seems to have no GET"),
        ((404, {"message": "Not Found", "path": "{path}"}), "warning", "seems to have no GET"),
        ((404, {}), "warning", "seems to have no GET"),
        ((405, {"message": "Method Not Allowed"}), "warning", "has no GET"),
        ((401, {"message": "No."}), "warning", "not checked: a made-up id is answered HTTP 401"),
        ((200, {}), "warning", "not checked: a made-up id is answered HTTP 200"),
        ((500, {}), "warning", "not checked: a made-up id is answered HTTP 500"),
    ],
)
def test_background_mode_needs_a_route_to_fetch_by_id(
    healthy: pytest.MonkeyPatch, provider: Provider, answer: tuple[int, dict[str, Any]], status: str, words: str
) -> None:
    provider.response = answer
    healthy.setenv("BACKBURNER_PROVIDER_TRANSPORT", "background")
    code, findings = diagnose()
    assert code == 0
    [found] = findings["background mode"]
    assert found["status"] == status
    assert words in found["message"]


def test_the_simulator_is_seen_through(healthy: pytest.MonkeyPatch) -> None:
    healthy.setenv("BACKBURNER_PROVIDER_TRANSPORT", "background")
    for flags, status in (((), "warning"), (("--native-background",), "ok")):
        with running(*flags) as simulator:
            healthy.setenv("BACKBURNER_PROVIDER_BASE_URL", f"{simulator.url}/v1")
            _, findings = diagnose()
        assert findings["background mode"][0]["status"] == status


def test_a_silent_worker_does_not_count(healthy: pytest.MonkeyPatch, sqlite_url: str) -> None:
    database = Database(sqlite_url)
    with database.begin() as tx:
        workers.mark_silent_dead(tx, database_now(tx) + timedelta(minutes=1), timedelta(seconds=10))
    database.close()
    status, findings = diagnose()
    assert (status, findings["worker"][0]["message"]) == (1, "no live worker: what is submitted stays queued")


def test_sqlites_write_lock_is_named_and_not_a_worker(healthy: pytest.MonkeyPatch, sqlite_url: str) -> None:
    with closing(sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        status, findings = diagnose()
    assert status == 1
    assert "another process has held its write lock for 2 s" in findings["database"][0]["message"]
    assert "worker" not in findings


def test_locks_and_connections_of_postgresql(healthy: pytest.MonkeyPatch, postgres_url: str) -> None:
    healthy.setenv("BACKBURNER_DATABASE_URL", postgres_url)
    database = Database(postgres_url)
    with database.begin() as tx:
        for number in range(40):
            workers.register(tx, "here", number, 100, database_now(tx))
    database.close()
    _, findings = diagnose()
    [locks] = findings["locks"]
    assert locks["status"] == "ok"
    [connections] = findings["connections"]
    assert connections["status"] == "warning"
    assert connections["message"].startswith("0 API processes and 40 workers may open 880 connections")
    with psycopg.connect(postgres_url, application_name="somebody") as session:
        session.execute("SELECT 1 FROM workers FOR UPDATE")
        healthy.setattr("cli.doctor.database.LONG_SECONDS", 0.0)
        _, findings = diagnose()
        [locks] = findings["locks"]
        assert locks["message"].startswith(f"session {session.info.backend_pid} (somebody, user ")
        assert locks["message"].endswith("0 waiting, tables: workers")
        assert f"pg_terminate_backend({session.info.backend_pid})" in locks["hint"]


def test_who_has_locked_a_whole_table_is_named_within_seconds(healthy: pytest.MonkeyPatch, postgres_url: str) -> None:
    """`doctor` stood still behind it for half a minute, and then named nobody."""
    healthy.setenv("BACKBURNER_DATABASE_URL", postgres_url)
    healthy.setattr("cli.doctor.database.LONG_SECONDS", 0.0)
    healthy.setattr("cli.doctor.local.LONG_SECONDS", 0.5)
    with psycopg.connect(postgres_url, application_name="somebody") as session:
        session.execute("LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE")
        status, findings = diagnose()
        assert status == 1
        assert findings["database"][0]["status"] == "error"
        assert findings["locks"][0]["message"].startswith(f"session {session.info.backend_pid} (somebody, user ")


def test_a_cluster_is_found_by_a_push_and_a_pop(healthy: pytest.MonkeyPatch) -> None:
    """It was called fine: it takes connections, and answers a ping."""
    with ClusterServer() as cluster:
        healthy.setenv("BACKBURNER_REDIS_URL", cluster.url)
        status, findings = diagnose()
    assert status == 1
    assert "is a Redis Cluster, which cannot keep the queue" in findings["broker"][0]["message"]


@pytest.mark.parametrize("command", ["-publish", "-subscribe"])
def test_a_user_of_redis_who_may_not_tell_or_hear_of_events_is_a_warning(
    healthy: pytest.MonkeyPatch, valkey: ValkeyServer, command: str
) -> None:
    with valkey.client() as client:
        client.execute_command("ACL", "SETUSER", "app", "on", ">hush", "~*", "&*", "+@all", command)
    healthy.setenv("BACKBURNER_REDIS_URL", f"redis://app:hush@127.0.0.1:{valkey.port}/0")
    _, findings = diagnose()
    (redis,) = findings["redis"]
    assert redis["status"] == "warning"
    assert "NOPERM" in redis["message"]
    assert command[1:] in redis["message"]
    assert findings["broker"][0]["status"] == "ok"


def test_a_trial_of_the_broker_leaves_nothing_behind(healthy: pytest.MonkeyPatch, valkey_url: str) -> None:
    _, findings = diagnose()
    assert findings["broker"][0]["message"].endswith("takes messages and hands them out")
    with ValkeyServer.client_of(valkey_url) as client:
        assert [key for key in client.keys("*") if b"trial" in key] == []


def test_a_worker_that_listens_to_nothing_is_found_and_a_job_that_waits_is_named(
    healthy: pytest.MonkeyPatch, sqlite_url: str
) -> None:
    database = Database(sqlite_url)
    with database.begin() as tx:
        now = database_now(tx)
        (worker,) = workers.live_workers(tx, now, timedelta(seconds=10))
        assert workers.beat(tx, worker.id, now, report=workers.Report((), 100, None))
    key = make_key(database, "a key", now - timedelta(minutes=1))
    with database.begin() as tx:
        job = submit_one(tx, make_spec(key.id, deadline_at=now + timedelta(days=1)), now - timedelta(minutes=1))
    database.close()
    status, findings = diagnose()
    said = "no live worker listens to the queue of jobs: here (process 1)"
    assert (status, findings["worker"][0]["message"]) == (1, f"{said}: what is submitted stays queued")
    waiting = findings["waiting"][0]
    assert waiting["status"] == "error"
    assert waiting["message"].startswith(f"{job.id} is due for 6")
    assert waiting["message"].endswith(said)


def test_a_database_of_another_release_is_found(healthy: pytest.MonkeyPatch, home: Path) -> None:
    healthy.setenv("BACKBURNER_DATABASE_URL", f"sqlite:///{home / 'empty.db'}")
    status, findings = diagnose()
    assert (status, findings["database"][0]["hint"]) == (1, "run: backburner migrate")


def test_the_valkey_that_up_embeds_is_found(healthy: pytest.MonkeyPatch, home: Path, valkey: ValkeyServer) -> None:
    healthy.delenv("BACKBURNER_REDIS_URL")
    with valkey.client() as client:
        client.config_set("requirepass", "hush")
    (home / ".backburner/valkey").mkdir(parents=True)
    (home / ".backburner/valkey/valkey.conf").write_text(f"port {valkey.port}\nrequirepass hush\n")
    (home / ".backburner").chmod(0o700)
    status, findings = diagnose()
    assert status == 0
    assert findings["redis"][0]["message"] == f"redis://:**@127.0.0.1:{valkey.port}/0"
    assert findings["broker"][0]["status"] == "ok"


def test_a_data_directory_that_others_can_read_is_a_warning(healthy: pytest.MonkeyPatch, home: Path) -> None:
    (home / ".backburner").mkdir(mode=0o755)
    _, findings = diagnose()
    assert findings["data dir"][0]["status"] == "warning"


def a_worker_reports(sqlite_url: str, report: workers.Report) -> None:
    database = Database(sqlite_url)
    with database.begin() as tx:
        now = database_now(tx)
        worker_id = workers.register(tx, "there", 4711, 100, now)
        assert workers.beat(tx, worker_id, now, report=report)
    database.close()


def test_a_worker_that_is_short_of_something_is_a_warning(healthy: pytest.MonkeyPatch, sqlite_url: str) -> None:
    a_worker_reports(sqlite_url, workers.Report(None, 40, None, "too many open files"))
    status, findings = diagnose()
    assert (status, findings["limits"][0]["status"]) == (0, "warning")
    assert findings["limits"][0]["message"] == "worker 4711 on there holds 40 calls at most: too many open files"


def test_a_worker_that_cannot_record_answers_is_a_warning(healthy: pytest.MonkeyPatch, sqlite_url: str) -> None:
    a_worker_reports(sqlite_url, workers.Report(None, 100, None, unrecorded=15))
    status, findings = diagnose()
    assert (status, findings["answers"][0]["status"]) == (0, "warning")
    assert findings["answers"][0]["message"].startswith("worker 4711 on there cannot record 15 paid answers")


@pytest.mark.parametrize(
    ("ahead", "said"),
    [
        (timedelta(hours=1, minutes=30), "is 1 h 30 min ahead of"),
        (timedelta(days=-2, seconds=-30), "is 2 d behind"),
        (timedelta(seconds=5), "is 5 s ahead of"),
    ],
)
def test_a_host_whose_clock_is_off_is_named(
    ahead: timedelta, said: str, healthy: pytest.MonkeyPatch, sqlite_url: str
) -> None:
    a_worker_reports(sqlite_url, workers.Report(None, 100, None, host_ahead=ahead))
    database = Database(sqlite_url)
    with database.begin() as tx:
        heartbeat_process(tx, Process("api_1", "elsewhere", 815, ahead.total_seconds()), database_now(tx))
    database.close()
    status, findings = diagnose()
    assert (status, {each["status"] for each in findings["clocks"]}) == (0, {"warning"})
    assert [each["message"] for each in findings["clocks"]] == [
        f"the clock of host elsewhere {said} Backburner's time, says API process 815 there",
        f"the clock of host there {said} Backburner's time, says worker 4711 there",
    ]
    assert all("NTP" in each["hint"] for each in findings["clocks"])


def test_hosts_whose_clocks_are_right_are_no_warning(healthy: pytest.MonkeyPatch, sqlite_url: str) -> None:
    a_worker_reports(sqlite_url, workers.Report(None, 100, None, host_ahead=timedelta(seconds=-4)))
    assert diagnose()[1]["clocks"][0]["status"] == "ok"


def test_a_model_that_is_about_to_go_is_a_warning(home: Path) -> None:
    settings = load_settings()
    (model,) = Catalogue(settings.models).models
    end = model.shutdown_date
    assert end is not None

    def said(today: date) -> list[str]:
        findings = list(check_shutdown_dates(settings, today))
        assert all(each.level is Level.WARNING for each in findings)
        return [each.message.rpartition(", ")[2] for each in findings]

    assert said(end - SOON - timedelta(days=1)) == []
    assert said(end - timedelta(days=19)) == ["in 19 days"]
    assert said(end) == ["today"]
    assert said(end + timedelta(days=2)) == ["2 days ago"]


def test_a_directory_without_a_valkey_has_no_url(tmp_path: Path) -> None:
    assert valkey.last_url(tmp_path) is None
