"""A database that is locked, full or silent delays requests only for a short time, and the error names it."""

import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import Any

import httpx
import psycopg
import pytest
from sqlalchemy import event, text

from jobs.store.database import Database, database_now
from jobs.store.workers import register
from jobs.store.write_probe import LIMIT_SECONDS
from tests.api.world import MODEL, Json, Server, Tenant, a_tenant, serve, settings_for
from tests.chaos.proxy import Proxy
from tests.support.postgres import Databases, PostgresServer
from tests.support.valkey import ValkeyServer
from tests.support.waiting import await_until

BODY: Json = {"model": MODEL, "input": "Hello", "background": True}
LONGEST = 10.0
"""Seconds that a request may take while another one is stuck."""


@pytest.fixture
def postgres(postgres_url: str, shared_valkey: ValkeyServer) -> Iterator[Server]:
    with serve(settings_for(postgres_url, shared_valkey.url)) as server:
        yield server


@pytest.fixture
def sqlite(sqlite_url: str, shared_valkey: ValkeyServer) -> Iterator[Server]:
    with serve(settings_for(sqlite_url, shared_valkey.url)) as server:
        yield server


def post(tenant: Tenant) -> tuple[httpx.Response, float]:
    """Send a create. Return its answer and its duration in seconds."""
    began_at = time.monotonic()
    answer = tenant.http.post("/v1/responses", json=BODY)
    return answer, time.monotonic() - began_at


def has_a_worker(server: Server) -> None:
    with server.database.begin() as tx:
        register(tx, "host", 4711, 10, database_now(tx))


def missing(server: Server) -> tuple[list[str], dict[str, str]]:
    with server.client() as client:
        began_at = time.monotonic()
        body = client.get("/readyz").json()
        assert time.monotonic() - began_at < LONGEST / 2
    return body["missing"], body["reasons"]


def test_one_tenants_locked_key_does_not_delay_other_tenants(postgres: Server) -> None:
    with a_tenant(postgres) as locked, a_tenant(postgres) as free, ThreadPoolExecutor(30) as pool:
        with psycopg.connect(postgres.settings.database) as session:
            session.execute("SELECT 1 FROM api_keys WHERE id = %s FOR UPDATE", (locked.id,))
            refused = [pool.submit(post, locked) for _ in range(10)]
            accepted = [pool.submit(post, free) for _ in range(10)]
            assert [each.result(30)[0].status_code for each in accepted] == [200] * 10
            late, seconds = post(free)  # by now the locked create waits separately
            assert (late.status_code, seconds < 2) == (200, True)
            for each in refused:
                answer, seconds = each.result(30)
                assert (answer.status_code, seconds < LONGEST) == (503, True)
                assert "Another session has locked" in answer.json()["error"]["message"]
                assert "x-should-retry" not in answer.headers
        assert post(locked)[0].status_code == 200
        assert len(locked.ids()) == 1


def test_a_create_waits_for_a_short_lock(postgres: Server) -> None:
    with a_tenant(postgres) as tenant, ThreadPoolExecutor(1) as pool:
        with psycopg.connect(postgres.settings.database) as session:
            session.execute("LOCK TABLE jobs IN EXCLUSIVE MODE")
            answer = pool.submit(post, tenant)
            with pytest.raises(TimeoutError):
                answer.result(1.5)
        assert answer.result(10)[0].status_code == 200


def test_a_create_waits_for_no_table_that_it_only_reads(postgres: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator's lock on the table of idempotency keys must not delay a create by half a minute."""
    monkeypatch.setattr("api.submit.READ_SECONDS", 1.0)
    with a_tenant(postgres) as tenant, psycopg.connect(postgres.settings.database) as session:
        tenant.http.headers["idempotency-key"] = "mine"
        session.execute("LOCK TABLE idempotency_keys IN ACCESS EXCLUSIVE MODE")
        answer, seconds = post(tenant)
        assert (answer.status_code, seconds < LONGEST / 2) == (503, True)
        session.rollback()
        assert post(tenant)[0].status_code == 200


def test_no_create_waits_for_a_silent_connection(postgres_url: str, shared_valkey: ValkeyServer) -> None:
    way, through = Proxy.before(postgres_url)
    with way:
        settings = settings_for(through, shared_valkey.url)
        with serve(settings) as server, a_tenant(server) as tenant, ThreadPoolExecutor(12) as pool:
            post(tenant)
            way.stall()
            silent = [pool.submit(post, tenant) for _ in range(12)]
            assert missing(server)[0][0] == "database"
            ended = [each.result(30) for each in silent]
            assert {answer.status_code for answer, _ in ended} == {503}
            assert max(seconds for _, seconds in ended) < LONGEST
            way.flow()


@pytest.mark.long
def test_a_create_that_is_stuck_on_a_silent_connection_does_not_delay_others(
    postgres_url: str, shared_valkey: ValkeyServer
) -> None:
    """A NAT has dropped the connection that the creates share. New connections work."""
    way, through = Proxy.before(postgres_url)
    with way:
        settings = settings_for(through, shared_valkey.url)
        with serve(settings) as server, a_tenant(server) as tenant, ThreadPoolExecutor(1) as pool:
            post(tenant)
            way.silence()
            stuck = pool.submit(post, tenant)
            await_until(lambda: server.is_creating, 5, "it was not begun")
            answer, seconds = post(tenant)
            assert (answer.status_code, seconds < LONGEST / 2) == (200, True)
            assert stuck.result(30)[1] < LONGEST


class TestReadiness:
    def test_a_silent_connection(self, postgres_url: str, shared_valkey: ValkeyServer) -> None:
        """The server starts behind the silent connection, so it has never read its names on the broker."""
        way, through = Proxy.before(postgres_url)
        with way:
            way.stall()
            settings = settings_for(through, shared_valkey.url, namespace=None)
            with serve(settings) as server, server.client() as client:
                began_at = time.monotonic()
                body = client.get("/readyz").json()
                assert (
                    time.monotonic() - began_at < LIMIT_SECONDS + 1
                )  # one second for a machine that runs other tests at the same time
                way.flow()
        assert body["missing"] == ["database"]
        assert body["reasons"] == {"database": "it does not answer within 2 s"}

    def test_sqlites_write_lock(self, sqlite: Server) -> None:
        assert sqlite.database.url.database
        with closing(sqlite3.connect(sqlite.database.url.database, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            # not "worker": a live worker could not write its heartbeat
            assert missing(sqlite) == (["database"], {"database": "another process has held its write lock for 2 s"})
            other.execute("ROLLBACK")
        has_a_worker(sqlite)

    def test_a_full_disk(self, sqlite: Server) -> None:
        has_a_worker(sqlite)
        with _full(sqlite.database):
            assert missing(sqlite) == (["database"], {"database": "its disk is full"})

    @pytest.mark.parametrize("table", ["jobs", "idempotency_keys", "output_items", "webhook_events"])
    def test_a_locked_table(self, postgres: Server, table: str) -> None:
        """Includes tables that only some creates write, or only the ends of calls."""
        has_a_worker(postgres)
        with psycopg.connect(postgres.settings.database) as session:
            session.execute(f"LOCK TABLE {table} IN SHARE MODE".encode())
            assert missing(postgres) == (["database"], {"database": "another session has locked a table"})

    def test_a_read_only_database(self, postgres: Server) -> None:
        has_a_worker(postgres)
        name = postgres.database.url.database
        with psycopg.connect(postgres.settings.database, autocommit=True) as operator:
            operator.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on'.encode())
        postgres.database.engine.dispose()
        with serve(postgres.settings) as server:
            reason = "it takes no writes: it is a standby, or set to be read-only"
            assert missing(server) == (["database"], {"database": reason})

    def test_a_missing_synchronous_standby(self, shared_valkey: ValkeyServer, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("api.submit_batch.WRITE_SECONDS", 1.0)
        with PostgresServer({"max_wal_senders": "2", "wal_level": "replica"}) as server:
            url = Databases(server.url).migrated()
            with serve(settings_for(url, shared_valkey.url)) as api, a_tenant(api) as tenant:
                has_a_worker(api)
                assert missing(api) == ([], {})
                with psycopg.connect(url, autocommit=True) as operator:
                    operator.execute("ALTER SYSTEM SET synchronous_standby_names = 'gone'")
                    operator.execute("SELECT pg_reload_conf()")
                    reasons = await_until(lambda: missing(api)[1], 10, "it is ready all the time")
                    assert "a synchronous standby is away" in reasons["database"]
                    answer, seconds = post(tenant)
                    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "acceptance_unknown")
                    assert seconds < LONGEST
                    operator.execute("ALTER SYSTEM RESET synchronous_standby_names")
                    operator.execute("SELECT pg_reload_conf()")
                assert tenant.get(answer.headers["openai-response-id"])["status"] == "queued"


@contextmanager
def _full(database: Database) -> Iterator[None]:
    """Limit the size of the file. SQLite then raises the same error as on a full disk."""

    def no_more(driver: Any, _record: object) -> None:
        driver.execute("PRAGMA max_page_count = 1")  # SQLite raises this to the current size

    with database.read() as tx:
        tx.execute(text("SELECT 1"))
    event.listen(database.engine, "connect", no_more)
    database.engine.dispose()
    yield
    event.remove(database.engine, "connect", no_more)
    database.engine.dispose()
