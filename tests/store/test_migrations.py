"""The migrated database equals the schema, and migrations run up, down, twice and concurrently."""

import re
import subprocess
import sys
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import CheckConstraint, Connection, Index, insert, inspect, text
from sqlalchemy.exc import IntegrityError

import migrations
from jobs.errors import Billed, ErrorKind
from jobs.job import CostSource, OnUnknownOutcome, Outcome, Truncation
from jobs.lifecycle import Status
from jobs.store import schema
from jobs.store.column_types import AsciiId
from jobs.store.database import Database
from jobs.webhooks.protocol import DeliveryError, DeliveryStatus, DisabledFor, EventType
from tests.support.records import Records, rows_of, snapshot

ROOT = Path(__file__).parents[2]
ENUMS: dict[str, type[StrEnum]] = {
    "ck_attempts_billed": Billed,
    "ck_attempts_cost_source": CostSource,
    "ck_attempts_error_kind": ErrorKind,
    "ck_attempts_outcome": Outcome,
    "ck_attempts_truncation": Truncation,
    "ck_jobs_cost_source": CostSource,
    "ck_jobs_error_kind": ErrorKind,
    "ck_jobs_on_unknown_outcome": OnUnknownOutcome,
    "ck_jobs_status": Status,
    "ck_jobs_truncation": Truncation,
    "ck_jobs_truncation_applied": Truncation,
    "ck_provider_limits_pause_kind": ErrorKind,
    "ck_usage_rollup_outcome": Outcome,
    "ck_webhook_deliveries_error_kind": DeliveryError,
    "ck_webhook_deliveries_status": DeliveryStatus,
    "ck_webhook_endpoints_disabled_for": DisabledFor,
    "ck_webhook_events_type": EventType,
    "ck_webhook_delivery_attempts_error_kind": DeliveryError,
}


@pytest.fixture
def tx(database: Database) -> Iterator[Connection]:
    with database.begin() as connection:
        yield connection


@pytest.fixture
def empty_database(empty_database_url: str) -> Iterator[Database]:
    opened = Database(empty_database_url)
    yield opened
    opened.close()


class TestEqualToTheSchema:
    def test_alembic_sees_no_difference(self, tx: Connection) -> None:
        options = {"compare_type": True, "compare_server_default": True}
        assert compare_metadata(MigrationContext.configure(tx, opts=options), schema.metadata) == []

    def test_every_check_exists_under_its_name(self, tx: Connection) -> None:
        for table in schema.metadata.sorted_tables:
            declared = {str(each.name) for each in table.constraints if isinstance(each, CheckConstraint)}
            found = {str(each["name"]) for each in inspect(tx).get_check_constraints(table.name)}
            assert found == declared, table.name

    def test_the_checks_list_every_value_of_the_enums(self, tx: Connection) -> None:
        found = {
            str(check["name"]): set(re.findall(r"'([^']*)'", check["sqltext"]))
            for table in schema.metadata.sorted_tables
            for check in inspect(tx).get_check_constraints(table.name)
        }
        assert {name: found[name] for name in ENUMS} == {name: set(enum) for name, enum in ENUMS.items()}

    def test_every_enum_column_has_its_check(self) -> None:
        """A check that is not listed above would not be compared with its enum."""
        declared = {
            str(check.name)
            for table in schema.metadata.sorted_tables
            for check in table.constraints
            if isinstance(check, CheckConstraint) and " IN ('" in str(check.sqltext) and "=" not in str(check.sqltext)
        }
        assert declared == set(ENUMS)

    def test_partial_indexes_cover_the_same_rows(self, tx: Connection) -> None:
        dialect = tx.dialect.name

        def plain(predicate: object) -> str:
            words = re.sub(r"::[a-z ]+(\[\])?", "", str(predicate)).casefold()
            words = re.sub(r"= any \(+array\[(.*?)\]\)+", r"in (\1)", words)  # as PostgreSQL says IN
            return re.sub(r"[() ]", "", words)

        for table in schema.metadata.sorted_tables:
            declared = {
                str(index.name): plain(where)
                for index in table.indexes
                if (where := _where(index, dialect)) is not None
            }
            found = {
                str(index["name"]): plain(index["dialect_options"][f"{dialect}_where"])
                for index in inspect(tx).get_indexes(table.name)
                if f"{dialect}_where" in index.get("dialect_options", {})
            }
            assert found == declared, table.name

    def test_tables_have_their_storage_parameters(self, tx: Connection) -> None:
        """PostgreSQL has the fill factors and the vacuum settings of the schema."""
        if tx.dialect.name == "sqlite":
            return
        rows = tx.execute(text("SELECT relname, reloptions FROM pg_class WHERE reloptions IS NOT NULL"))
        found = {row.relname: row.reloptions for row in rows}
        declared = {
            table.name: sorted(f"{name}={value}" for name, value in options.items())
            for table in schema.metadata.sorted_tables
            if (options := table.dialect_options["postgresql"]["with"])
        }
        assert {name: sorted(options) for name, options in found.items() if name in schema.metadata.tables} == declared

    def test_every_foreign_key_has_an_index(self) -> None:
        """The databases create none by themselves, and without one each erasure reads the whole table."""
        for table in schema.metadata.sorted_tables:
            led_by = {table.primary_key.columns[0], *(index.columns[0] for index in table.indexes)}
            cascading = {key.parent for key in table.foreign_keys if key.ondelete}
            assert cascading <= led_by, table.name

    def test_ids_are_compared_by_bytes(self, tx: Connection) -> None:
        """In a locale's order, pages would skip rows and the fair scheduler would skip keys."""
        if tx.dialect.name == "sqlite":
            rows = tx.execute(text("SELECT sql FROM sqlite_master WHERE sql LIKE '%COLLATE%'"))
            assert rows.all() == []
            return
        query = "SELECT table_name, column_name FROM information_schema.columns WHERE collation_name = 'C'"
        found = {tuple(row) for row in tx.execute(text(query)) if row.table_name in schema.metadata.tables}
        declared = {
            (table.name, column.name)
            for table in schema.metadata.sorted_tables
            for column in table.columns
            if isinstance(column.type, AsciiId)
        }
        assert found == declared


def _where(index: Index, dialect: str) -> object:
    where: object = index.dialect_options[dialect]["where"]
    return where


class TestChecks:
    """The database refuses rows that no present code writes."""

    @pytest.mark.parametrize(
        "wrong",
        [
            {"status": "done"},
            {"status": "in_progress"},
            {"worker_id": "wrk_1"},
            {"status": "failed"},
            {"completed_at": "now"},
            {"error_kind": "bad luck"},
            {"truncation": "none"},
            {"truncation_applied": "none"},
            {"on_unknown_outcome": "maybe"},
            {"cost_source": "rumour"},
        ],
    )
    def test_of_jobs(self, wrong: dict[str, str], records: Records) -> None:
        values = {name: records.clock() if value == "now" else value for name, value in wrong.items()}
        records.submit_job()
        before = snapshot(records.database)
        with pytest.raises(IntegrityError), records.database.begin() as tx:
            tx.execute(schema.jobs.update().values(values))
        assert snapshot(records.database) == before

    @pytest.mark.parametrize("wrong", [{"outcome": "failed"}, {"ended_at": "now"}, {"billed": "perhaps"}])
    def test_of_attempts(self, wrong: dict[str, str], records: Records) -> None:
        values = {name: records.clock() if value == "now" else value for name, value in wrong.items()}
        job = records.job_in(Status.IN_PROGRESS)
        before = rows_of(records.database, schema.attempts, job)
        with pytest.raises(IntegrityError), records.database.begin() as tx:
            tx.execute(schema.attempts.update().values(values))
        assert rows_of(records.database, schema.attempts, job) == before

    def test_an_attempt_has_one_row(self, records: Records) -> None:
        job = records.job_in(Status.IN_PROGRESS)
        [row] = rows_of(records.database, schema.attempts, job)
        with pytest.raises(IntegrityError), records.database.begin() as tx:
            tx.execute(insert(schema.attempts).values(dict(row)))


class TestUpgrades:
    def test_an_empty_database_is_not_current(self, empty_database: Database) -> None:
        with empty_database.read() as tx:
            assert not migrations.is_current(tx)

    def test_up_down_and_up_again(self, empty_database: Database, empty_database_url: str) -> None:
        migrations.upgrade(empty_database_url)
        with empty_database.read() as tx:
            assert migrations.is_current(tx)
            assert set(inspect(tx).get_table_names()) == {*schema.metadata.tables, "alembic_version"}
        migrations.downgrade(empty_database_url, "base")
        with empty_database.read() as tx:
            assert not migrations.is_current(tx)
            assert inspect(tx).get_table_names() == ["alembic_version"]
        migrations.upgrade(empty_database_url)
        with empty_database.begin() as tx:
            assert migrations.is_current(tx)
            assert compare_metadata(MigrationContext.configure(tx), schema.metadata) == []

    def test_a_second_upgrade_changes_nothing(self, records: Records, database_url: str) -> None:
        records.submit_job()
        before = snapshot(records.database)
        migrations.upgrade(database_url)
        assert snapshot(records.database) == before

    def test_two_processes_may_migrate_at_once(self, empty_database: Database, empty_database_url: str) -> None:
        code = "import sys; from migrations import upgrade; sys.stdin.read(1); upgrade(sys.argv[1])"
        command = [sys.executable, "-c", code, empty_database_url]
        processes = [
            subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for _ in range(2)
        ]
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go")
            process.stdin.flush()
        ends = [process.communicate(timeout=60)[1] for process in processes]
        assert [process.returncode for process in processes] == [0, 0], ends
        with empty_database.read() as tx:
            assert migrations.is_current(tx)

    def test_one_revision_follows_another(self) -> None:
        """With two heads, chance would decide which one a release runs."""
        directory = ScriptDirectory.from_config(migrations.config_for("sqlite://"))
        assert directory.get_heads() == [migrations.HEAD]
        assert [revision.revision for revision in directory.walk_revisions()][-1] == "0001"
