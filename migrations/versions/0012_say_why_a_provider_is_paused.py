"""Keep in words why a provider is paused."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("lanes", sa.Column("closed_because", sa.String(), nullable=True))


def downgrade() -> None:
    op.drop_column("lanes", "closed_because")
