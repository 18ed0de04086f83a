"""Fill a database with millions of finished jobs and a backlog of many keys, within minutes.

The database itself generates the rows. They look like real ones: ids that grow with time, small prompts and answers,
one attempt each. The indexes are built afterwards, which is several times faster.
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection, text

from jobs.store import schema
from jobs.store.api_keys import BOOTSTRAP_ID, ensure_bootstrap_key
from jobs.store.database import Database
from tests.support.postgres import PostgresServer
from tests.support.stack import API_KEY, MODEL

# Durability is off: a database that is lost can be filled again.
LOADING = {
    "autovacuum": "off",
    "fsync": "off",
    "full_page_writes": "off",
    "max_wal_size": "16GB",
    "wal_level": "minimal",
}
LONG = float("inf")
SPAN = timedelta(days=29)  # within the retention, so that nothing is pruned during the benchmark

# Each job's number, creation time, id and key. The finished jobs come first and are older.
GENERATED = """
SELECT n, moment, 'resp_' || lpad(to_hex(ms), 12, '0') || lpad(to_hex(n), 20, '0') AS id,
    CASE WHEN owner = 0 THEN :first_key ELSE 'key_' || lpad(to_hex(owner), 32, '0') END AS key
FROM (
    SELECT n, ms, to_timestamp(ms / 1000.0) AS moment, (n * 7919) % :keys AS owner
    FROM (
        SELECT n, CAST(:start_ms + n * CAST(:step_ms AS double precision) AS bigint) AS ms
        FROM generate_series(CAST(:first AS bigint), CAST(:last AS bigint)) AS n
    ) AS numbered
) AS owned
"""

KEYS = """
INSERT INTO api_keys (id, name, sha256, scopes, created_at)
SELECT 'key_' || lpad(to_hex(n), 32, '0'), 'key ' || n, md5(CAST(n AS text)), '[]', now()
FROM generate_series(1, :keys - 1) AS n
"""

FINISHED = f"""
INSERT INTO jobs (
    id, api_key_id, model, status, attempt, failures, max_attempts, on_unknown_outcome, truncation, background,
    priority, created_at, updated_at, available_at, deadline_at, enqueued_at, started_at, completed_at,
    provider_response_id, provider_model, error_code, error_kind, error_message, input_tokens, output_tokens,
    total_tokens, cached_tokens, reasoning_tokens, cost_microusd, cost_source, store
)
SELECT
    id, key, :model,
    CASE WHEN n % 100 < 92 THEN 'completed' WHEN n % 100 < 94 THEN 'incomplete'
        WHEN n % 100 < 98 THEN 'failed' ELSE 'cancelled' END,
    1, 0, 5, 'retry', 'disabled', true, 5, moment, moment + interval '2 minutes', moment, moment + interval '1 day',
    moment, moment + interval '1 second', moment + interval '2 minutes', 'theirs_' || n, 'o3-pro-2025-06-10',
    CASE WHEN n % 100 BETWEEN 94 AND 97 THEN 'provider_rejected' END,
    CASE WHEN n % 100 BETWEEN 94 AND 97 THEN 'rejected' END,
    CASE WHEN n % 100 BETWEEN 94 AND 97 THEN 'Unsupported value.' END,
    100, 200, 300, 0, 50, 1250, 'provider', true
FROM ({GENERATED}) AS generated
"""

QUEUED = f"""
INSERT INTO jobs (
    id, api_key_id, model, status, attempt, failures, max_attempts, on_unknown_outcome, truncation, background,
    priority, created_at, updated_at, available_at, deadline_at, store
)
SELECT
    id, key, :model, 'queued', 0, 0, 5, 'retry', 'disabled', true, 5, moment, moment, moment,
    moment + interval '30 days', true
FROM ({GENERATED}) AS generated
"""

REQUESTS = f"""
INSERT INTO requests (job_id, settings, input)
SELECT id, '{{"model":"{MODEL}","background":true}}', '"Say hello in one word, for the ' || n || 'th time."'
FROM ({GENERATED}) AS generated
""".replace(":true", r"\:true")

ANSWERS = f"""
INSERT INTO answers (job_id, response, raw)
SELECT id,
    '{{"output"\\:[{{"type"\\:"message","content"\\:[{{"type"\\:"output_text","text"\\:"Hello ' || n || '"}}]}}]}}',
    convert_to('{{"output_text"\\:"Hello ' || n || '"}}', 'UTF8')
FROM ({GENERATED}) AS generated WHERE n % 100 < 94
"""

ATTEMPTS = f"""
INSERT INTO attempts (
    job_id, number, api_key_id, model, worker_id, started_at, ended_at, outcome, billed, truncation, error_kind,
    error_message, http_status, provider_request_id, provider_response_id, input_tokens, output_tokens,
    total_tokens, cached_tokens, reasoning_tokens, cost_microusd, cost_source
)
SELECT
    id, 1, key, :model, 'wrk_' || lpad('1', 32, '0'), moment + interval '1 second', moment + interval '2 minutes',
    CASE WHEN n % 100 < 92 THEN 'completed' WHEN n % 100 < 94 THEN 'incomplete'
        WHEN n % 100 < 98 THEN 'failed' ELSE 'cancelled' END,
    'yes', 'disabled', CASE WHEN n % 100 BETWEEN 94 AND 97 THEN 'rejected' END,
    CASE WHEN n % 100 BETWEEN 94 AND 97 THEN 'Unsupported value.' END, 200, 'inf_' || n, 'theirs_' || n,
    100, 200, 300, 0, 50, 1250, 'provider'
FROM ({GENERATED}) AS generated
"""

FILLED = (schema.jobs, schema.requests, schema.answers, schema.attempts)


@dataclass(frozen=True)
class Past:
    """Numbers of finished jobs, of queued and due jobs, and of the API keys that they belong to."""

    finished: int
    queued: int
    keys: int = 1_000


def fill(url: str, past: Past) -> None:
    """Fill an empty, migrated PostgreSQL database and vacuum it."""
    database = Database(url, pool_size=2)
    now = datetime.now(UTC)
    with database.begin(within=LONG) as tx:
        ensure_bootstrap_key(tx, API_KEY, now)
        tx.execute(text(KEYS), {"keys": past.keys})
        for table in FILLED:
            for index in table.indexes:
                index.drop(tx)
    total = past.finished + past.queued
    start = now - SPAN
    common = {
        "first_key": BOOTSTRAP_ID,
        "keys": past.keys,
        "start_ms": int(start.timestamp() * 1000),
        "step_ms": SPAN.total_seconds() * 1000 / max(1, total),
    }
    finished = {**common, "first": 1, "last": past.finished}
    queued = {**common, "first": past.finished + 1, "last": total}
    everything = {**common, "first": 1, "last": total}

    def jobs(tx: Connection) -> None:
        tx.execute(text(FINISHED), {**finished, "model": MODEL})
        tx.execute(text(QUEUED), {**queued, "model": MODEL})

    def rest(tx: Connection) -> None:
        tx.execute(text(REQUESTS), everything)
        tx.execute(text(ANSWERS), finished)

    def attempts(tx: Connection) -> None:
        tx.execute(text(ATTEMPTS), {**finished, "model": MODEL})

    steps = (jobs, rest, attempts)
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda step: _load(database, step), steps))
        indexes = [index for table in FILLED for index in table.indexes]
        list(threads.map(lambda index: _load(database, index.create), indexes))
        list(threads.map(lambda table: _vacuum(database, table.name), schema.metadata.sorted_tables))
    with database.read(within=LONG) as tx:
        tx.execute(text("CHECKPOINT"))
    database.close()


@contextmanager
def loading(server: PostgresServer) -> Iterator[None]:
    """Run the server with fast, unsafe settings during the block; then restore them and sync everything to disk."""
    settings = server.settings
    server.settings = {**settings, **LOADING}
    server.restart()
    yield
    server.settings = settings
    server.restart()
    os.sync()


def _load(database: Database, step: Callable[[Connection], object]) -> None:
    with database.begin(within=LONG) as tx:
        tx.execute(text("SET LOCAL session_replication_role = replica"))  # generated rows need no check of foreign keys
        tx.execute(text("SET LOCAL synchronous_commit = off"))
        tx.execute(text("SET LOCAL maintenance_work_mem = '1GB'"))
        step(tx)


def _vacuum(database: Database, table: str) -> None:
    with database.read(within=LONG) as tx:
        tx.execute(text(f"VACUUM (ANALYZE, FREEZE) {table}"))
