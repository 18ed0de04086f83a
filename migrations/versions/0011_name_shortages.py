"""Let a worker say what it is short of."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("workers", sa.Column("short_of", sa.String(), nullable=True))


def downgrade() -> None:
    op.drop_column("workers", "short_of")
