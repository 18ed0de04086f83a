"""Let a worker say what it is short of, and how many answers it cannot record."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("workers", sa.Column("short_of", sa.String(), nullable=True))
    op.add_column("workers", sa.Column("unrecorded", sa.Integer(), nullable=True))


def downgrade() -> None:
    op.drop_column("workers", "unrecorded")
    op.drop_column("workers", "short_of")
