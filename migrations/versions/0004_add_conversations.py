"""Add follow-ups, responses that are not stored, and the creates whose answer has not been written."""

from typing import Any

import sqlalchemy as sa
from alembic import op

from jobs.store.column_types import ByteOrdered, Moment

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

UNSTORED: dict[str, Any] = {
    "postgresql_where": sa.text("store = false AND completed_at IS NOT NULL"),
    "sqlite_where": sa.text("store = 0 AND completed_at IS NOT NULL"),
}
WAITING: dict[str, Any] = {
    "postgresql_where": sa.text("waits_for IS NOT NULL"),
    "sqlite_where": sa.text("waits_for IS NOT NULL"),
}
FOLLOWING: dict[str, Any] = {
    "postgresql_where": sa.text("previous_response_id IS NOT NULL AND completed_at IS NULL"),
    "sqlite_where": sa.text("previous_response_id IS NOT NULL AND completed_at IS NULL"),
}


def upgrade() -> None:
    op.add_column("jobs", sa.Column("previous_response_id", ByteOrdered(), nullable=True))
    op.add_column("jobs", sa.Column("waits_for", ByteOrdered(), nullable=True))
    op.add_column("jobs", sa.Column("sent_responses", sa.Integer(), nullable=True))
    op.add_column("jobs", sa.Column("sent_items", sa.Integer(), nullable=True))
    op.add_column("jobs", sa.Column("store", sa.Boolean(), nullable=True))
    op.create_index("ix_jobs_unstored", "jobs", ["completed_at"], unique=False, **UNSTORED)
    op.create_index("ix_jobs_waiting", "jobs", ["waits_for"], unique=False, **WAITING)
    op.create_index("ix_jobs_following", "jobs", ["previous_response_id"], unique=False, **FOLLOWING)
    op.create_table(
        "api_processes",
        sa.Column("id", ByteOrdered(), nullable=False),
        sa.Column("beat_at", Moment(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_processes")),
    )
    op.create_table(
        "unanswered",
        sa.Column("job_id", ByteOrdered(), nullable=False),
        sa.Column("api_key_id", ByteOrdered(), nullable=False),
        sa.Column("body_sha256", sa.String(), nullable=False),
        sa.Column("request_id", ByteOrdered(), nullable=False),
        sa.Column("process_id", ByteOrdered(), nullable=False),
        sa.Column("since", Moment(), nullable=False),
        sa.Column("lost_at", Moment(), nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_unanswered_job_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_unanswered")),
    )
    op.create_index("ix_unanswered_body", "unanswered", ["api_key_id", "body_sha256"], unique=False)
    op.create_index("ix_unanswered_request", "unanswered", ["request_id"], unique=False)


def downgrade() -> None:
    op.drop_index("ix_unanswered_request", "unanswered")
    op.drop_index("ix_unanswered_body", "unanswered")
    op.drop_table("unanswered")
    op.drop_table("api_processes")
    op.drop_index("ix_jobs_following", "jobs", **FOLLOWING)
    op.drop_index("ix_jobs_waiting", "jobs", **WAITING)
    op.drop_index("ix_jobs_unstored", "jobs", **UNSTORED)
    for column in ("store", "sent_items", "sent_responses", "waits_for", "previous_response_id"):
        op.drop_column("jobs", column)
