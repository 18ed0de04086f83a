"""Settings of a role or a database do not change stored data or end transactions."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import psycopg
import pytest
from sqlalchemy import make_url, select

from jobs.lifecycle import Status, Verb
from jobs.store import schema
from jobs.store.database import Database
from tests.support import pgbouncer
from tests.support.clock import Clock
from tests.support.pgbouncer import PgBouncerServer
from tests.support.records import ANSWER, Records

SETTINGS = [
    {"DateStyle": "German, DMY"},
    {"DateStyle": "Postgres, MDY", "IntervalStyle": "iso_8601", "TimeZone": "America/St_Johns"},
    {"DateStyle": "SQL, DMY", "TimeZone": "<+0530>-5:30", "IntervalStyle": "sql_standard"},
    {"statement_timeout": "20ms"},
    {"lock_timeout": "1ms", "idle_in_transaction_session_timeout": "20ms", "idle_session_timeout": "3s"},
    {"default_transaction_isolation": "serializable"},
    {"client_encoding": "LATIN1", "bytea_output": "escape", "extra_float_digits": "-10"},
    {"standard_conforming_strings": "off", "backslash_quote": "off", "escape_string_warning": "off"},
]
POOLED = pytest.param(
    True, id="pooled", marks=pytest.mark.skipif(not pgbouncer.is_installed(), reason=pgbouncer.MISSING)
)


@contextmanager
def opened(url: str, settings: dict[str, str], *, pooled: bool) -> Iterator[Database]:
    with psycopg.connect(url, autocommit=True) as connection:
        for name, value in settings.items():
            statement = f"ALTER DATABASE \"{make_url(url).database}\" SET {name} = '{value}'"
            connection.execute(statement.encode())
    with ExitStack() as stack:
        at = stack.enter_context(PgBouncerServer(url)).url if pooled else url
        database = Database(at)
        stack.callback(database.close)
        yield database


@pytest.mark.parametrize("pooled", [pytest.param(False, id="direct"), POOLED])
@pytest.mark.parametrize("settings", SETTINGS, ids="-".join)
def test_a_job_is_stored_and_read_unchanged(settings: dict[str, str], pooled: bool, postgres_url: str) -> None:
    with opened(postgres_url, settings, pooled=pooled) as database:
        clock = Clock()
        records = Records(database, clock)
        job = records.submit_job(input="Ünï \\' 漢字 🎈")
        ended = records.end(*records.claim(job), Verb.COMPLETE, ANSWER)
        found = records.reload(job)
        assert (found.status, found.created_at) == (Status.COMPLETED, clock())
        assert found == records.reload(ended)
        with database.begin() as tx:
            tx.exec_driver_sql("SELECT pg_sleep(0.1)")
            assert tx.exec_driver_sql("SHOW transaction_isolation").scalar_one() == "read committed"
            assert tx.exec_driver_sql("SELECT %s::text", ("漢字 🎈",)).scalar_one() == "漢字 🎈"
        with database.read() as tx:
            assert tx.execute(select(schema.requests.c.input)).scalar_one() == "Ünï \\' 漢字 🎈"


@pytest.mark.parametrize("pooled", [pytest.param(False, id="direct"), POOLED])
def test_a_transaction_timeout_ends_no_write(pooled: bool, postgres_url: str) -> None:
    with psycopg.connect(postgres_url) as connection:
        if connection.info.server_version < 170_000:
            pytest.skip("PostgreSQL has transaction_timeout since version 17")
    with (
        opened(postgres_url, {"transaction_timeout": "500ms"}, pooled=pooled) as database,
        database.begin() as tx,
    ):
        tx.exec_driver_sql("SELECT pg_sleep(0.8)")


def test_a_name_and_keepalives_in_the_url_are_kept(postgres_url: str) -> None:
    url = make_url(postgres_url).update_query_dict({"application_name": "mine", "keepalives_idle": "77"})
    database = Database(url.render_as_string(hide_password=False))
    with database.read() as tx:
        assert tx.exec_driver_sql("SHOW application_name").scalar_one() == "mine"
        driver: psycopg.Connection[object] = tx.connection.dbapi_connection  # type: ignore[assignment]  # SQLAlchemy's is wide
        assert driver.info.get_parameters()["keepalives_idle"] == "77"
    database.close()


def test_a_limit_in_the_url_is_kept(postgres_url: str) -> None:
    url = make_url(postgres_url).update_query_dict({"options": "-c statement_timeout=7s"})
    database = Database(url.render_as_string(hide_password=False))
    with database.read() as tx:
        assert tx.exec_driver_sql("SHOW statement_timeout").scalar_one() == "7s"
    database.close()
