"""Remember which response holds which output item, so that a later request can refer to it.

Responses that ended before have no rows here: a reference to one of their items is refused.
"""

import sqlalchemy as sa
from alembic import op

from jobs.store.column_types import ByteOrdered

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "output_items",
        sa.Column("job_id", ByteOrdered(), nullable=False),
        sa.Column("item_id", ByteOrdered(), nullable=False),
        sa.Column("api_key_id", ByteOrdered(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_output_items_job_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "item_id", name=op.f("pk_output_items")),
        sqlite_with_rowid=False,
    )
    op.create_index("ix_output_items_find", "output_items", ["api_key_id", "item_id", "job_id"], unique=False)


def downgrade() -> None:
    op.drop_index("ix_output_items_find", table_name="output_items")
    op.drop_table("output_items")
