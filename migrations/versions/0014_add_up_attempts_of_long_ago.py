"""Keep attempts of long ago added up by day, model, key and outcome."""

import sqlalchemy as sa
from alembic import op

from jobs.store.column_types import ByteOrdered

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

SUMS = (
    *("calls", "calls_of_unknown_cost"),
    *("input_tokens", "output_tokens", "total_tokens", "cached_tokens", "reasoning_tokens", "cost_microusd"),
)
OUTCOMES = "outcome IN ('completed', 'incomplete', 'failed', 'cancelled', 'lost', 'released')"


def upgrade() -> None:
    op.create_table(
        "past_usage",
        sa.Column("api_key_id", ByteOrdered(), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("outcome", sa.String(), nullable=False),
        *(sa.Column(name, sa.BigInteger(), nullable=False) for name in SUMS),
        sa.CheckConstraint(OUTCOMES, name=op.f("ck_past_usage_outcome")),
        sa.ForeignKeyConstraint(["api_key_id"], ["api_keys.id"], name=op.f("fk_past_usage_api_key_id")),
        sa.PrimaryKeyConstraint("api_key_id", "day", "model", "outcome", name=op.f("pk_past_usage")),
    )


def downgrade() -> None:
    op.drop_table("past_usage")
