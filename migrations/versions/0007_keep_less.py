"""Remember which responses the provider keeps, and keep the credentials of tools apart from their request."""

from typing import Any

import sqlalchemy as sa
from alembic import op

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
    op.create_index("ix_attempts_copy_unwanted", "attempts", ["ended_at"], unique=False, **UNWANTED)


def downgrade() -> None:
    op.drop_column("requests", "credentials")
    op.drop_index("ix_attempts_copy_unwanted", "attempts", **UNWANTED)
    op.drop_column("attempts", "copy_unwanted")
