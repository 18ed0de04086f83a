"""Create the tables."""

import sqlalchemy as sa
from alembic import op

from jobs.store.column_types import ByteOrdered, JsonText, Moment

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "api_keys",
        sa.Column("id", ByteOrdered(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("sha256", sa.String(), nullable=False),
        sa.Column("scopes", JsonText(), nullable=False),
        sa.Column("created_at", Moment(), nullable=False),
        sa.Column("revoked_at", Moment(), nullable=True),
        sa.Column("dispatched_at", Moment(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_keys")),
        sa.UniqueConstraint("sha256", name=op.f("uq_api_keys_sha256")),
    )
    op.create_table(
        "lanes",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("max_calls", sa.Integer(), nullable=True),
        sa.Column("narrowed_at", Moment(), nullable=True),
        sa.Column("widened_at", Moment(), nullable=True),
        sa.Column("closed_at", Moment(), nullable=True),
        sa.Column("closed_for", sa.String(), nullable=True),
        sa.Column("opened_at", Moment(), nullable=True),
        sa.Column("probe_at", Moment(), nullable=True),
        sa.Column("probes", sa.Integer(), nullable=False),
        sa.CheckConstraint(
            (
                "closed_for IN ('unreachable', 'rate_limited', 'overloaded', 'bad_credentials', "
                "'out_of_credit', 'rejected', 'model_unavailable', 'context_overflow', 'interrupted', "
                "'server_error', 'gateway_timeout', 'call_deadline', 'malformed_answer', 'answer_failed', "
                "'answer_refused', 'empty_output', 'lost', 'job_deadline')"
            ),
            name=op.f("ck_lanes_closed_for"),
        ),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_lanes")),
    )
    op.create_table(
        "leases",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("holder", sa.String(), nullable=False),
        sa.Column("expires_at", Moment(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_leases")),
    )
    op.create_table(
        "workers",
        sa.Column("id", ByteOrdered(), nullable=False),
        sa.Column("host", sa.String(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("concurrency", sa.Integer(), nullable=False),
        sa.Column("started_at", Moment(), nullable=False),
        sa.Column("beat_at", Moment(), nullable=False),
        sa.Column("draining_at", Moment(), nullable=True),
        sa.Column("ended_at", Moment(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_workers")),
    )
    op.create_table(
        "attempts",
        sa.Column("job_id", ByteOrdered(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("api_key_id", ByteOrdered(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("worker_id", ByteOrdered(), nullable=False),
        sa.Column("started_at", Moment(), nullable=False),
        sa.Column("ended_at", Moment(), nullable=True),
        sa.Column("outcome", sa.String(), nullable=True),
        sa.Column("billed", sa.String(), nullable=False),
        sa.Column("truncation", sa.String(), nullable=False),
        sa.Column("resumes", sa.String(), nullable=True),
        sa.Column("error_kind", sa.String(), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.Column("http_status", sa.Integer(), nullable=True),
        sa.Column("provider_request_id", sa.String(), nullable=True),
        sa.Column("provider_response_id", sa.String(), nullable=True),
        sa.Column("input_tokens", sa.BigInteger(), nullable=True),
        sa.Column("output_tokens", sa.BigInteger(), nullable=True),
        sa.Column("total_tokens", sa.BigInteger(), nullable=True),
        sa.Column("cached_tokens", sa.BigInteger(), nullable=True),
        sa.Column("reasoning_tokens", sa.BigInteger(), nullable=True),
        sa.Column("cost_microusd", sa.BigInteger(), nullable=True),
        sa.Column("cost_source", sa.String(), nullable=True),
        sa.Column("reconciled_at", Moment(), nullable=True),
        sa.CheckConstraint("billed IN ('no', 'unknown', 'likely', 'yes')", name=op.f("ck_attempts_billed")),
        sa.CheckConstraint("cost_source IN ('provider', 'price_table')", name=op.f("ck_attempts_cost_source")),
        sa.CheckConstraint(
            (
                "error_kind IN ('unreachable', 'rate_limited', 'overloaded', 'bad_credentials', "
                "'out_of_credit', 'rejected', 'model_unavailable', 'context_overflow', 'interrupted', "
                "'server_error', 'gateway_timeout', 'call_deadline', 'malformed_answer', 'answer_failed', "
                "'answer_refused', 'empty_output', 'lost', 'job_deadline')"
            ),
            name=op.f("ck_attempts_error_kind"),
        ),
        sa.CheckConstraint(
            "outcome IN ('completed', 'incomplete', 'failed', 'cancelled', 'released', 'lost')",
            name=op.f("ck_attempts_outcome"),
        ),
        sa.CheckConstraint("truncation IN ('auto', 'disabled')", name=op.f("ck_attempts_truncation")),
        sa.CheckConstraint("(outcome IS NULL) = (ended_at IS NULL)", name=op.f("ck_attempts_ended_with_an_outcome")),
        sa.ForeignKeyConstraint(["api_key_id"], ["api_keys.id"], name=op.f("fk_attempts_api_key_id")),
        sa.PrimaryKeyConstraint("job_id", "number", name=op.f("pk_attempts")),
    )
    doubtful = sa.text("cost_microusd IS NULL AND reconciled_at IS NULL")
    with op.batch_alter_table("attempts", schema=None) as batch_op:
        batch_op.create_index(
            "ix_attempts_doubtful", ["ended_at"], unique=False, postgresql_where=doubtful, sqlite_where=doubtful
        )
        batch_op.create_index(
            "ix_attempts_open",
            ["worker_id"],
            unique=False,
            postgresql_where=sa.text("ended_at IS NULL"),
            sqlite_where=sa.text("ended_at IS NULL"),
        )
        batch_op.create_index("ix_attempts_usage", ["api_key_id", "started_at"], unique=False)

    op.create_table(
        "jobs",
        sa.Column("id", ByteOrdered(), nullable=False),
        sa.Column("api_key_id", ByteOrdered(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("max_attempts", sa.Integer(), nullable=False),
        sa.Column("on_unknown_outcome", sa.String(), nullable=False),
        sa.Column("truncation", sa.String(), nullable=False),
        sa.Column("truncation_applied", sa.String(), nullable=True),
        sa.Column("background", sa.Boolean(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("created_at", Moment(), nullable=False),
        sa.Column("updated_at", Moment(), nullable=False),
        sa.Column("available_at", Moment(), nullable=False),
        sa.Column("deadline_at", Moment(), nullable=False),
        sa.Column("rung_at", Moment(), nullable=True),
        sa.Column("started_at", Moment(), nullable=True),
        sa.Column("completed_at", Moment(), nullable=True),
        sa.Column("worker_id", ByteOrdered(), nullable=True),
        sa.Column("provider_response_id", sa.String(), nullable=True),
        sa.Column("provider_model", sa.String(), nullable=True),
        sa.Column("incomplete_reason", sa.String(), nullable=True),
        sa.Column("error_code", sa.String(), nullable=True),
        sa.Column("error_kind", sa.String(), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.Column("error_param", sa.String(), nullable=True),
        sa.Column("error_http_status", sa.Integer(), nullable=True),
        sa.Column("input_tokens", sa.BigInteger(), nullable=True),
        sa.Column("output_tokens", sa.BigInteger(), nullable=True),
        sa.Column("total_tokens", sa.BigInteger(), nullable=True),
        sa.Column("cached_tokens", sa.BigInteger(), nullable=True),
        sa.Column("reasoning_tokens", sa.BigInteger(), nullable=True),
        sa.Column("cost_microusd", sa.BigInteger(), nullable=True),
        sa.Column("cost_source", sa.String(), nullable=True),
        sa.CheckConstraint("(status = 'in_progress') = (worker_id IS NOT NULL)", name=op.f("ck_jobs_held_by_a_worker")),
        sa.CheckConstraint(
            "(status IN ('queued', 'in_progress')) = (completed_at IS NULL)", name=op.f("ck_jobs_ended_once")
        ),
        sa.CheckConstraint("cost_source IN ('provider', 'price_table')", name=op.f("ck_jobs_cost_source")),
        sa.CheckConstraint(
            (
                "error_kind IN ('unreachable', 'rate_limited', 'overloaded', 'bad_credentials', "
                "'out_of_credit', 'rejected', 'model_unavailable', 'context_overflow', 'interrupted', "
                "'server_error', 'gateway_timeout', 'call_deadline', 'malformed_answer', 'answer_failed', "
                "'answer_refused', 'empty_output', 'lost', 'job_deadline')"
            ),
            name=op.f("ck_jobs_error_kind"),
        ),
        sa.CheckConstraint("on_unknown_outcome IN ('retry', 'fail')", name=op.f("ck_jobs_on_unknown_outcome")),
        sa.CheckConstraint(
            "status IN ('queued', 'in_progress', 'completed', 'incomplete', 'failed', 'cancelled')",
            name=op.f("ck_jobs_status"),
        ),
        sa.CheckConstraint("truncation IN ('auto', 'disabled')", name=op.f("ck_jobs_truncation")),
        sa.CheckConstraint("truncation_applied IN ('auto', 'disabled')", name=op.f("ck_jobs_truncation_applied")),
        sa.CheckConstraint("priority BETWEEN 0 AND 9", name=op.f("ck_jobs_priority")),
        sa.ForeignKeyConstraint(["api_key_id"], ["api_keys.id"], name=op.f("fk_jobs_api_key_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_jobs")),
    )
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.create_index(
            "ix_jobs_deadline",
            ["deadline_at"],
            unique=False,
            postgresql_where=sa.text("completed_at IS NULL"),
            sqlite_where=sa.text("completed_at IS NULL"),
        )
        batch_op.create_index(
            "ix_jobs_due",
            ["priority", "api_key_id", "available_at", "id"],
            unique=False,
            postgresql_where=sa.text("status = 'queued'"),
            sqlite_where=sa.text("status = 'queued'"),
        )
        batch_op.create_index(
            "ix_jobs_ended",
            ["completed_at"],
            unique=False,
            postgresql_where=sa.text("completed_at IS NOT NULL"),
            sqlite_where=sa.text("completed_at IS NOT NULL"),
        )
        batch_op.create_index(
            "ix_jobs_held",
            ["worker_id"],
            unique=False,
            postgresql_where=sa.text("status = 'in_progress'"),
            sqlite_where=sa.text("status = 'in_progress'"),
        )
        batch_op.create_index("ix_jobs_list", ["api_key_id", "id"], unique=False)
        batch_op.create_index("ix_jobs_list_by_model", ["api_key_id", "model", "id"], unique=False)
        batch_op.create_index("ix_jobs_list_by_status", ["api_key_id", "status", "id"], unique=False)

    op.create_table(
        "answers",
        sa.Column("job_id", ByteOrdered(), nullable=False),
        sa.Column("response", JsonText(), nullable=True),
        sa.Column("raw", sa.LargeBinary(), nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_answers_job_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_answers")),
    )
    op.create_table(
        "idempotency_keys",
        sa.Column("api_key_id", ByteOrdered(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("body_sha256", sa.String(), nullable=False),
        sa.Column("job_id", ByteOrdered(), nullable=False),
        sa.ForeignKeyConstraint(["api_key_id"], ["api_keys.id"], name=op.f("fk_idempotency_keys_api_key_id")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_idempotency_keys_job_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("api_key_id", "key", name=op.f("pk_idempotency_keys")),
    )
    with op.batch_alter_table("idempotency_keys", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_idempotency_keys_job_id"), ["job_id"], unique=False)

    op.create_table(
        "job_metadata",
        sa.Column("job_id", ByteOrdered(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("api_key_id", ByteOrdered(), nullable=False),
        sa.Column("value", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_job_metadata_job_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "key", name=op.f("pk_job_metadata")),
    )
    with op.batch_alter_table("job_metadata", schema=None) as batch_op:
        batch_op.create_index("ix_job_metadata_list", ["api_key_id", "key", "value", "job_id"], unique=False)

    op.create_table(
        "requests",
        sa.Column("job_id", ByteOrdered(), nullable=False),
        sa.Column("settings", JsonText(), nullable=False),
        sa.Column("input", JsonText(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_requests_job_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_requests")),
    )


def downgrade() -> None:
    op.drop_table("requests")
    with op.batch_alter_table("job_metadata", schema=None) as batch_op:
        batch_op.drop_index("ix_job_metadata_list")

    op.drop_table("job_metadata")
    with op.batch_alter_table("idempotency_keys", schema=None) as batch_op:
        batch_op.drop_index(batch_op.f("ix_idempotency_keys_job_id"))

    op.drop_table("idempotency_keys")
    op.drop_table("answers")
    with op.batch_alter_table("jobs", schema=None) as batch_op:
        batch_op.drop_index("ix_jobs_list_by_status")
        batch_op.drop_index("ix_jobs_list_by_model")
        batch_op.drop_index("ix_jobs_list")
        batch_op.drop_index(
            "ix_jobs_held",
            postgresql_where=sa.text("status = 'in_progress'"),
            sqlite_where=sa.text("status = 'in_progress'"),
        )
        batch_op.drop_index(
            "ix_jobs_ended",
            postgresql_where=sa.text("completed_at IS NOT NULL"),
            sqlite_where=sa.text("completed_at IS NOT NULL"),
        )
        batch_op.drop_index(
            "ix_jobs_due", postgresql_where=sa.text("status = 'queued'"), sqlite_where=sa.text("status = 'queued'")
        )
        batch_op.drop_index(
            "ix_jobs_deadline",
            postgresql_where=sa.text("completed_at IS NULL"),
            sqlite_where=sa.text("completed_at IS NULL"),
        )

    op.drop_table("jobs")
    with op.batch_alter_table("attempts", schema=None) as batch_op:
        batch_op.drop_index("ix_attempts_usage")
        batch_op.drop_index("ix_attempts_doubtful")
        batch_op.drop_index(
            "ix_attempts_open", postgresql_where=sa.text("ended_at IS NULL"), sqlite_where=sa.text("ended_at IS NULL")
        )

    op.drop_table("attempts")
    op.drop_table("workers")
    op.drop_table("leases")
    op.drop_table("lanes")
    op.drop_table("api_keys")
