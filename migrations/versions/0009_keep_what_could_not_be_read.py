"""Keep what calls brought that could not be read, find those of unknown cost, and note which job narrowed a lane.

The index is built while the table is locked against writes, in the one transaction of every migration.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

from jobs.store.column_types import ByteOrdered

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

IS_UNPRICED = "ended_at IS NOT NULL AND billed <> 'no' AND cost_microusd IS NULL"
UNPRICED: dict[str, Any] = {f"{dialect}_where": sa.text(IS_UNPRICED) for dialect in ("postgresql", "sqlite")}


def upgrade() -> None:
    op.create_table(
        "attempt_bodies",
        sa.Column("job_id", ByteOrdered(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_attempt_bodies_job_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "number", name=op.f("pk_attempt_bodies")),
    )
    op.create_index("ix_attempts_unpriced", "attempts", ["api_key_id", "started_at", "model"], unique=False, **UNPRICED)
    op.add_column("lanes", sa.Column("narrowed_by", ByteOrdered(), nullable=True))


def downgrade() -> None:
    op.drop_column("lanes", "narrowed_by")
    op.drop_index("ix_attempts_unpriced", "attempts", **UNPRICED)
    op.drop_table("attempt_bodies")
