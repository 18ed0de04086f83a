"""Add webhooks: endpoints, the outbox of events and deliveries, and the log of tries."""

import sqlalchemy as sa
from alembic import op

from jobs.store.column_types import ByteOrdered, JsonText, Moment

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

ERROR_KINDS = (
    "error_kind IN ('address_refused', 'name_unresolved', 'unreachable', 'tls_failed', 'timed_out', 'interrupted', "
    "'redirected', 'http_error', 'gone', 'secret_unreadable', 'lost', 'endpoint_disabled')"
)


def upgrade() -> None:
    op.create_table(
        "webhook_events",
        sa.Column("id", ByteOrdered(), nullable=False),
        sa.Column("api_key_id", ByteOrdered(), nullable=False),
        sa.Column("job_id", ByteOrdered(), nullable=False),
        sa.Column("type", sa.String(), nullable=False),
        sa.Column("payload", sa.Text(), nullable=False),
        sa.Column("created_at", Moment(), nullable=False),
        sa.CheckConstraint(
            "type IN ('response.completed', 'response.failed', 'response.cancelled', 'response.incomplete')",
            name=op.f("ck_webhook_events_type"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_events")),
    )
    op.create_index("ix_webhook_events_job", "webhook_events", ["job_id"], unique=False)
    op.create_table(
        "webhook_endpoints",
        sa.Column("id", ByteOrdered(), nullable=False),
        sa.Column("api_key_id", ByteOrdered(), nullable=False),
        sa.Column("job_id", ByteOrdered(), nullable=True),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("receiver", ByteOrdered(), nullable=False),
        sa.Column("event_types", JsonText(), nullable=False),
        sa.Column("secret", sa.Text(), nullable=True),
        sa.Column("secret_hint", sa.String(), nullable=True),
        sa.Column("former_secret", sa.Text(), nullable=True),
        sa.Column("former_until", Moment(), nullable=True),
        sa.Column("created_at", Moment(), nullable=False),
        sa.Column("updated_at", Moment(), nullable=False),
        sa.Column("failing_since", Moment(), nullable=True),
        sa.Column("warned_at", Moment(), nullable=True),
        sa.Column("disabled_at", Moment(), nullable=True),
        sa.Column("disabled_for", sa.String(), nullable=True),
        sa.CheckConstraint("disabled_for IN ('failing', 'gone')", name=op.f("ck_webhook_endpoints_disabled_for")),
        sa.CheckConstraint(
            "(disabled_at IS NULL) = (disabled_for IS NULL)", name=op.f("ck_webhook_endpoints_disabled_for_a_reason")
        ),
        sa.CheckConstraint(
            "(former_secret IS NULL) = (former_until IS NULL)", name=op.f("ck_webhook_endpoints_former_secret_ends")
        ),
        sa.ForeignKeyConstraint(["api_key_id"], ["api_keys.id"], name=op.f("fk_webhook_endpoints_api_key_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_endpoints")),
    )
    op.create_index(
        "ix_webhook_endpoints_disabled",
        "webhook_endpoints",
        ["disabled_at"],
        unique=False,
        postgresql_where=sa.text("disabled_at IS NOT NULL"),
        sqlite_where=sa.text("disabled_at IS NOT NULL"),
    )
    op.create_index(
        "ix_webhook_endpoints_job",
        "webhook_endpoints",
        ["job_id"],
        unique=True,
        postgresql_where=sa.text("job_id IS NOT NULL"),
        sqlite_where=sa.text("job_id IS NOT NULL"),
    )
    op.create_index(
        "ix_webhook_endpoints_list",
        "webhook_endpoints",
        ["api_key_id", "id"],
        unique=False,
        postgresql_where=sa.text("job_id IS NULL"),
        sqlite_where=sa.text("job_id IS NULL"),
    )
    op.create_table(
        "webhook_deliveries",
        sa.Column("id", ByteOrdered(), nullable=False),
        sa.Column("event_id", ByteOrdered(), nullable=False),
        sa.Column("endpoint_id", ByteOrdered(), nullable=False),
        sa.Column("api_key_id", ByteOrdered(), nullable=False),
        sa.Column("receiver", ByteOrdered(), nullable=False),
        sa.Column("is_test", sa.Boolean(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("created_at", Moment(), nullable=False),
        sa.Column("available_at", Moment(), nullable=False),
        sa.Column("rung_at", Moment(), nullable=True),
        sa.Column("claimed_at", Moment(), nullable=True),
        sa.Column("worker_id", ByteOrdered(), nullable=True),
        sa.Column("ended_at", Moment(), nullable=True),
        sa.Column("http_status", sa.Integer(), nullable=True),
        sa.Column("error_kind", sa.String(), nullable=True),
        sa.CheckConstraint(
            "(status = 'sending') = (worker_id IS NOT NULL)", name=op.f("ck_webhook_deliveries_held_by_a_worker")
        ),
        sa.CheckConstraint(
            "(status IN ('pending', 'sending')) = (ended_at IS NULL)", name=op.f("ck_webhook_deliveries_ended_once")
        ),
        sa.CheckConstraint(ERROR_KINDS, name=op.f("ck_webhook_deliveries_error_kind")),
        sa.CheckConstraint(
            "status IN ('pending', 'sending', 'delivered', 'failed')", name=op.f("ck_webhook_deliveries_status")
        ),
        sa.ForeignKeyConstraint(
            ["endpoint_id"],
            ["webhook_endpoints.id"],
            name=op.f("fk_webhook_deliveries_endpoint_id"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["event_id"], ["webhook_events.id"], name=op.f("fk_webhook_deliveries_event_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_deliveries")),
    )
    op.create_index(
        "ix_webhook_deliveries_due",
        "webhook_deliveries",
        ["receiver", "available_at", "id"],
        unique=False,
        postgresql_where=sa.text("status = 'pending'"),
        sqlite_where=sa.text("status = 'pending'"),
    )
    op.create_index(
        "ix_webhook_deliveries_ended",
        "webhook_deliveries",
        ["ended_at"],
        unique=False,
        postgresql_where=sa.text("ended_at IS NOT NULL"),
        sqlite_where=sa.text("ended_at IS NOT NULL"),
    )
    op.create_index("ix_webhook_deliveries_event", "webhook_deliveries", ["event_id", "endpoint_id"], unique=True)
    op.create_index("ix_webhook_deliveries_log", "webhook_deliveries", ["endpoint_id", "id"], unique=False)
    op.create_index(
        "ix_webhook_deliveries_open",
        "webhook_deliveries",
        ["created_at"],
        unique=False,
        postgresql_where=sa.text("ended_at IS NULL"),
        sqlite_where=sa.text("ended_at IS NULL"),
    )
    op.create_index(
        "ix_webhook_deliveries_sending",
        "webhook_deliveries",
        ["receiver"],
        unique=False,
        postgresql_where=sa.text("status = 'sending'"),
        sqlite_where=sa.text("status = 'sending'"),
    )
    op.create_table(
        "webhook_tries",
        sa.Column("delivery_id", ByteOrdered(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("started_at", Moment(), nullable=False),
        sa.Column("ended_at", Moment(), nullable=True),
        sa.Column("http_status", sa.Integer(), nullable=True),
        sa.Column("error_kind", sa.String(), nullable=True),
        sa.CheckConstraint(ERROR_KINDS, name=op.f("ck_webhook_tries_error_kind")),
        sa.ForeignKeyConstraint(
            ["delivery_id"], ["webhook_deliveries.id"], name=op.f("fk_webhook_tries_delivery_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("delivery_id", "number", name=op.f("pk_webhook_tries")),
    )


def downgrade() -> None:
    for table in ("webhook_tries", "webhook_deliveries", "webhook_endpoints", "webhook_events"):
        op.drop_table(table)
