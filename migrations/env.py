"""Alembic's environment: one transaction for the whole upgrade, and one migrating process at a time."""

from alembic import context
from sqlalchemy import text

from jobs.store import schema
from jobs.store.database import Database

LOCK_TIMEOUT = "10s"
IDLE_TIMEOUT = "60s"
ADVISORY_LOCK = 7_083_110_242

database = Database(context.config.attributes["url"])
try:
    with database.begin(within=float("inf")) as connection:
        if not database.is_sqlite:
            connection.execute(text("SET LOCAL lock_timeout = 0"))  # wait for a running migration without a limit
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": ADVISORY_LOCK})
            connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'"))
            connection.execute(text(f"SET LOCAL idle_in_transaction_session_timeout = '{IDLE_TIMEOUT}'"))
        context.configure(
            connection=connection,
            target_metadata=schema.metadata,
            render_as_batch=database.is_sqlite,
            transactional_ddl=True,
        )
        context.run_migrations()
finally:
    database.close()
