"""Keep the time where the database has no clock, and let every process say how far its host's clock is off."""

import sqlalchemy as sa
from alembic import op

from jobs.store.column_types import Moment

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("installation", sa.Column("boot", sa.String(), nullable=True))
    op.add_column("installation", sa.Column("began_at", Moment(), nullable=True))
    op.add_column("workers", sa.Column("host_ahead", sa.Float(), nullable=True))
    op.add_column("api_processes", sa.Column("host", sa.String(), nullable=True))
    op.add_column("api_processes", sa.Column("pid", sa.Integer(), nullable=True))
    op.add_column("api_processes", sa.Column("host_ahead", sa.Float(), nullable=True))


def downgrade() -> None:
    op.drop_column("api_processes", "host_ahead")
    op.drop_column("api_processes", "pid")
    op.drop_column("api_processes", "host")
    op.drop_column("workers", "host_ahead")
    op.drop_column("installation", "began_at")
    op.drop_column("installation", "boot")
