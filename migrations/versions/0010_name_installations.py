"""Give the installation an id, by which its queues go on a shared broker, and let workers say what they hear."""

from secrets import token_hex

import sqlalchemy as sa
from alembic import op

from jobs.store.column_types import Moment

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("workers", sa.Column("queues", sa.String(), nullable=True))
    op.add_column("workers", sa.Column("took_at", Moment(), nullable=True))
    installation = op.create_table(
        "installation",
        sa.Column("namespace", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("namespace", name="pk_installation"),
    )
    op.bulk_insert(installation, [{"namespace": f"backburner-{token_hex(4)}"}])


def downgrade() -> None:
    op.drop_table("installation")
    op.drop_column("workers", "took_at")
    op.drop_column("workers", "queues")
