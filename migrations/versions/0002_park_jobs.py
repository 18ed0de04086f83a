"""Park jobs until the provider's log tells what became of their last call."""

import sqlalchemy as sa
from alembic import op

from jobs.store.column_types import Moment

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

QUEUED = sa.text("status = 'queued'")
WAITING = sa.text("status = 'queued' AND parked_until IS NULL")
PARKED = sa.text("parked_until IS NOT NULL")


def upgrade() -> None:
    moment = Moment().compile(op.get_bind().dialect)
    # In words of its own, as SQLite takes a new check only together with its column.
    check = "CONSTRAINT ck_jobs_parked_in_the_queue CHECK (parked_until IS NULL OR status = 'queued')"
    op.execute(f"ALTER TABLE jobs ADD COLUMN parked_until {moment} {check}")
    op.create_index("ix_jobs_parked", "jobs", ["parked_until"], postgresql_where=PARKED, sqlite_where=PARKED)
    _index_due(WAITING)
    op.add_column("lanes", sa.Column("log_off_until", Moment(), nullable=True))


def downgrade() -> None:
    # what came before would run parked jobs again, who asked for one call at most
    op.execute(
        "UPDATE jobs SET status = 'failed', completed_at = parked_until, parked_until = NULL, "
        "error_code = 'outcome_unknown' WHERE parked_until IS NOT NULL"
    )
    op.drop_column("lanes", "log_off_until")
    _index_due(QUEUED)
    op.drop_index("ix_jobs_parked", "jobs")
    op.drop_column("jobs", "parked_until")


def _index_due(condition: sa.TextClause) -> None:
    op.drop_index("ix_jobs_due", "jobs")
    columns = ["priority", "api_key_id", "available_at", "id"]
    op.create_index("ix_jobs_due", "jobs", columns, postgresql_where=condition, sqlite_where=condition)
