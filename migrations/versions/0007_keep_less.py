"""Remember which responses the provider keeps, keep the credentials of tools apart, and drop what nobody reads."""

from typing import Any

import sqlalchemy as sa
from alembic import op

from jobs.store.column_types import Moment

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

UNWANTED: dict[str, Any] = {
    "postgresql_where": sa.text("copy_unwanted = true"),
    "sqlite_where": sa.text("copy_unwanted = 1"),
}


def upgrade() -> None:
    op.add_column("attempts", sa.Column("copy_unwanted", sa.Boolean(), nullable=True))
    op.add_column("requests", sa.Column("credentials", sa.Text(), nullable=True))
    op.drop_column("lanes", "opened_at")
    op.create_index("ix_attempts_copy_unwanted", "attempts", ["ended_at"], unique=False, **UNWANTED)


def downgrade() -> None:
    op.add_column("lanes", sa.Column("opened_at", Moment(), nullable=True))
    op.drop_column("requests", "credentials")
    op.drop_index("ix_attempts_copy_unwanted", "attempts", **UNWANTED)
    op.drop_column("attempts", "copy_unwanted")
