"""Create the tables."""

from collections.abc import Iterable
from secrets import token_hex
from typing import Any

import sqlalchemy as sa
from alembic import op

from jobs.store.column_types import AsciiId, JsonText, UtcDateTime

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

ERROR_KINDS = (
    "unreachable",
    "rate_limited",
    "overloaded",
    "bad_credentials",
    "out_of_credit",
    "rejected",
    "model_unavailable",
    "context_overflow",
    "interrupted",
    "server_error",
    "gateway_timeout",
    "call_deadline",
    "malformed_answer",
    "answer_failed",
    "answer_refused",
    "empty_output",
    "lost",
    "job_deadline",
)
DELIVERY_ERRORS = (
    "address_refused",
    "name_unresolved",
    "unreachable",
    "tls_failed",
    "timed_out",
    "interrupted",
    "redirected",
    "http_error",
    "gone",
    "secret_unreadable",
    "lost",
    "endpoint_disabled",
)


UNFETCHED = (
    "outcome IN ('lost', 'released') AND provider_response_id IS NOT NULL"
    " AND cost_microusd IS NULL AND reconciled_at IS NULL"
)


def _one_of(column: str, values: Iterable[str], name: str) -> sa.CheckConstraint:
    listed = ", ".join(f"'{value}'" for value in values)
    return sa.CheckConstraint(f"{column} IN ({listed})", name=op.f(name))


def _index(
    name: str,
    table: str,
    columns: list[str],
    *,
    where: str | None = None,
    sqlite_where: str | None = None,
    **options: Any,
) -> None:
    if where is not None:
        options |= {"postgresql_where": sa.text(where), "sqlite_where": sa.text(sqlite_where or where)}
    op.create_index(op.f(name), table, columns, **options)


def upgrade() -> None:
    op.create_table(
        "api_keys",
        sa.Column("id", AsciiId(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("sha256", sa.String(), nullable=False),
        sa.Column("scopes", JsonText(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("revoked_at", UtcDateTime()),
        sa.Column("served_at", UtcDateTime()),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_keys")),
        sa.UniqueConstraint("sha256", name=op.f("uq_api_keys_sha256")),
        postgresql_with={"fillfactor": "50"},
    )
    op.create_table(
        "api_processes",
        sa.Column("id", AsciiId(), nullable=False),
        sa.Column("heartbeat_at", UtcDateTime(), nullable=False),
        sa.Column("host", sa.String()),
        sa.Column("pid", sa.Integer()),
        sa.Column("host_ahead", sa.Float()),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_processes")),
    )
    installation = op.create_table(
        "installation",
        sa.Column("namespace", sa.String(), nullable=False),
        sa.Column("boot", sa.String()),
        sa.Column("began_at", UtcDateTime()),
        sa.PrimaryKeyConstraint("namespace", name=op.f("pk_installation")),
    )
    op.create_table(
        "leases",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("holder", sa.String(), nullable=False),
        sa.Column("expires_at", UtcDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_leases")),
    )
    op.create_table(
        "provider_limits",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("max_calls", sa.Integer()),
        sa.Column("throttled_at", UtcDateTime()),
        sa.Column("throttled_by", AsciiId()),
        sa.Column("relaxed_at", UtcDateTime()),
        sa.Column("paused_at", UtcDateTime()),
        sa.Column("pause_kind", sa.String()),
        sa.Column("pause_reason", sa.String()),
        sa.Column("probe_at", UtcDateTime()),
        sa.Column("probes", sa.Integer(), nullable=False),
        sa.Column("log_off_until", UtcDateTime()),
        _one_of("pause_kind", ERROR_KINDS, "ck_provider_limits_pause_kind"),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_provider_limits")),
    )
    op.create_table(
        "webhook_events",
        sa.Column("id", AsciiId(), nullable=False),
        sa.Column("api_key_id", AsciiId(), nullable=False),
        sa.Column("job_id", AsciiId(), nullable=False),
        sa.Column("type", sa.String(), nullable=False),
        sa.Column("payload", sa.Text(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        _one_of(
            "type",
            ("response.completed", "response.failed", "response.cancelled", "response.incomplete"),
            "ck_webhook_events_type",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_events")),
    )
    op.create_table(
        "workers",
        sa.Column("id", AsciiId(), nullable=False),
        sa.Column("host", sa.String(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("concurrency", sa.Integer(), nullable=False),
        sa.Column("started_at", UtcDateTime(), nullable=False),
        sa.Column("heartbeat_at", UtcDateTime(), nullable=False),
        sa.Column("draining_at", UtcDateTime()),
        sa.Column("ended_at", UtcDateTime()),
        sa.Column("short_of", sa.String()),
        sa.Column("unrecorded", sa.Integer()),
        sa.Column("queues", sa.String()),
        sa.Column("took_at", UtcDateTime()),
        sa.Column("host_ahead", sa.Float()),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_workers")),
    )
    op.create_table(
        "attempts",
        sa.Column("job_id", AsciiId(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("api_key_id", AsciiId(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("worker_id", AsciiId(), nullable=False),
        sa.Column("started_at", UtcDateTime(), nullable=False),
        sa.Column("ended_at", UtcDateTime()),
        sa.Column("outcome", sa.String()),
        sa.Column("billed", sa.String(), nullable=False),
        sa.Column("truncation", sa.String(), nullable=False),
        sa.Column("resumes", sa.String()),
        sa.Column("error_kind", sa.String()),
        sa.Column("error_message", sa.Text()),
        sa.Column("http_status", sa.Integer()),
        sa.Column("provider_request_id", sa.String()),
        sa.Column("provider_response_id", sa.String()),
        sa.Column("input_tokens", sa.BigInteger()),
        sa.Column("output_tokens", sa.BigInteger()),
        sa.Column("total_tokens", sa.BigInteger()),
        sa.Column("cached_tokens", sa.BigInteger()),
        sa.Column("reasoning_tokens", sa.BigInteger()),
        sa.Column("cost_microusd", sa.BigInteger()),
        sa.Column("cost_source", sa.String()),
        sa.Column("reconciled_at", UtcDateTime()),
        sa.Column("copy_unwanted", sa.Boolean()),
        _one_of("billed", ("no", "unknown", "likely", "yes"), "ck_attempts_billed"),
        _one_of("cost_source", ("provider", "price_table"), "ck_attempts_cost_source"),
        _one_of("error_kind", ERROR_KINDS, "ck_attempts_error_kind"),
        _one_of(
            "outcome", ("completed", "incomplete", "failed", "cancelled", "released", "lost"), "ck_attempts_outcome"
        ),
        _one_of("truncation", ("auto", "disabled"), "ck_attempts_truncation"),
        sa.CheckConstraint("(outcome IS NULL) = (ended_at IS NULL)", name=op.f("ck_attempts_ended_with_an_outcome")),
        sa.ForeignKeyConstraint(["api_key_id"], ["api_keys.id"], name=op.f("fk_attempts_api_key_id")),
        sa.PrimaryKeyConstraint("job_id", "number", name=op.f("pk_attempts")),
        postgresql_with={
            "autovacuum_vacuum_scale_factor": "0.02",
            "autovacuum_vacuum_insert_scale_factor": "0.02",
            "autovacuum_analyze_scale_factor": "0.01",
        },
    )
    _index(
        "ix_attempts_copy_unwanted",
        "attempts",
        ["ended_at"],
        where="copy_unwanted = true",
        sqlite_where="copy_unwanted = 1",
    )
    _index(
        "ix_attempts_doubtful",
        "attempts",
        ["ended_at"],
        where="billed IN ('unknown', 'likely') AND cost_microusd IS NULL AND reconciled_at IS NULL",
    )
    _index("ix_attempts_open", "attempts", ["worker_id"], where="ended_at IS NULL")
    _index("ix_attempts_unfetched", "attempts", ["ended_at"], where=UNFETCHED)
    _index(
        "ix_attempts_unpriced",
        "attempts",
        ["api_key_id", "started_at", "model"],
        where="ended_at IS NOT NULL AND billed <> 'no' AND cost_microusd IS NULL",
    )
    _index(
        "ix_attempts_usage",
        "attempts",
        ["api_key_id", "started_at"],
        postgresql_include=[
            "model",
            "input_tokens",
            "output_tokens",
            "total_tokens",
            "cached_tokens",
            "reasoning_tokens",
            "cost_microusd",
        ],
    )
    op.create_table(
        "jobs",
        sa.Column("id", AsciiId(), nullable=False),
        sa.Column("api_key_id", AsciiId(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("max_attempts", sa.Integer(), nullable=False),
        sa.Column("on_unknown_outcome", sa.String(), nullable=False),
        sa.Column("truncation", sa.String(), nullable=False),
        sa.Column("truncation_applied", sa.String()),
        sa.Column("background", sa.Boolean(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.Column("available_at", UtcDateTime(), nullable=False),
        sa.Column("deadline_at", UtcDateTime(), nullable=False),
        sa.Column("enqueued_at", UtcDateTime()),
        sa.Column("started_at", UtcDateTime()),
        sa.Column("completed_at", UtcDateTime()),
        sa.Column("worker_id", AsciiId()),
        sa.Column("provider_response_id", sa.String()),
        sa.Column("provider_model", sa.String()),
        sa.Column("incomplete_reason", sa.String()),
        sa.Column("error_code", sa.String()),
        sa.Column("error_kind", sa.String()),
        sa.Column("error_message", sa.Text()),
        sa.Column("error_param", sa.String()),
        sa.Column("error_http_status", sa.Integer()),
        sa.Column("input_tokens", sa.BigInteger()),
        sa.Column("output_tokens", sa.BigInteger()),
        sa.Column("total_tokens", sa.BigInteger()),
        sa.Column("cached_tokens", sa.BigInteger()),
        sa.Column("reasoning_tokens", sa.BigInteger()),
        sa.Column("cost_microusd", sa.BigInteger()),
        sa.Column("cost_source", sa.String()),
        sa.Column("parked_until", UtcDateTime()),
        sa.Column("previous_response_id", AsciiId()),
        sa.Column("blocked_by", AsciiId()),
        sa.Column("sent_responses", sa.Integer()),
        sa.Column("sent_items", sa.Integer()),
        sa.Column("store", sa.Boolean()),
        sa.CheckConstraint("(status = 'in_progress') = (worker_id IS NOT NULL)", name=op.f("ck_jobs_held_by_a_worker")),
        sa.CheckConstraint(
            "(status IN ('queued', 'in_progress')) = (completed_at IS NULL)", name=op.f("ck_jobs_ended_once")
        ),
        _one_of("cost_source", ("provider", "price_table"), "ck_jobs_cost_source"),
        _one_of("error_kind", ERROR_KINDS, "ck_jobs_error_kind"),
        _one_of("on_unknown_outcome", ("retry", "fail"), "ck_jobs_on_unknown_outcome"),
        sa.CheckConstraint("parked_until IS NULL OR status = 'queued'", name=op.f("ck_jobs_parked_in_the_queue")),
        _one_of(
            "status", ("queued", "in_progress", "completed", "incomplete", "failed", "cancelled"), "ck_jobs_status"
        ),
        _one_of("truncation", ("auto", "disabled"), "ck_jobs_truncation"),
        _one_of("truncation_applied", ("auto", "disabled"), "ck_jobs_truncation_applied"),
        sa.CheckConstraint("priority BETWEEN 0 AND 9", name=op.f("ck_jobs_priority")),
        sa.ForeignKeyConstraint(["api_key_id"], ["api_keys.id"], name=op.f("fk_jobs_api_key_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_jobs")),
        postgresql_with={
            "fillfactor": "85",
            "autovacuum_vacuum_scale_factor": "0.02",
            "autovacuum_vacuum_insert_scale_factor": "0.02",
            "autovacuum_analyze_scale_factor": "0.01",
        },
    )
    _index("ix_jobs_deadline", "jobs", ["deadline_at"], where="completed_at IS NULL")
    _index(
        "ix_jobs_due",
        "jobs",
        ["priority", "api_key_id", "available_at", "id"],
        where="status = 'queued' AND parked_until IS NULL",
    )
    _index("ix_jobs_ended", "jobs", ["completed_at"], where="completed_at IS NOT NULL")
    _index(
        "ix_jobs_following",
        "jobs",
        ["previous_response_id"],
        where="previous_response_id IS NOT NULL AND completed_at IS NULL",
    )
    _index("ix_jobs_held", "jobs", ["worker_id"], where="status = 'in_progress'")
    _index("ix_jobs_list", "jobs", ["api_key_id", "id"])
    _index("ix_jobs_list_by_model", "jobs", ["api_key_id", "model", "id"])
    _index("ix_jobs_list_by_status", "jobs", ["api_key_id", "status", "id"])
    _index("ix_jobs_parked", "jobs", ["parked_until"], where="parked_until IS NOT NULL")
    _index(
        "ix_jobs_unstored",
        "jobs",
        ["completed_at"],
        where="store = false AND completed_at IS NOT NULL",
        sqlite_where="store = 0 AND completed_at IS NOT NULL",
    )
    _index("ix_jobs_waiting", "jobs", ["blocked_by"], where="blocked_by IS NOT NULL")
    op.create_table(
        "usage_rollup",
        sa.Column("api_key_id", AsciiId(), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("outcome", sa.String(), nullable=False),
        sa.Column("calls", sa.BigInteger(), nullable=False),
        sa.Column("calls_of_unknown_cost", sa.BigInteger(), nullable=False),
        sa.Column("input_tokens", sa.BigInteger(), nullable=False),
        sa.Column("output_tokens", sa.BigInteger(), nullable=False),
        sa.Column("total_tokens", sa.BigInteger(), nullable=False),
        sa.Column("cached_tokens", sa.BigInteger(), nullable=False),
        sa.Column("reasoning_tokens", sa.BigInteger(), nullable=False),
        sa.Column("cost_microusd", sa.BigInteger(), nullable=False),
        _one_of(
            "outcome", ("completed", "incomplete", "failed", "cancelled", "released", "lost"), "ck_usage_rollup_outcome"
        ),
        sa.ForeignKeyConstraint(["api_key_id"], ["api_keys.id"], name=op.f("fk_usage_rollup_api_key_id")),
        sa.PrimaryKeyConstraint("api_key_id", "day", "model", "outcome", name=op.f("pk_usage_rollup")),
    )
    op.create_table(
        "webhook_endpoints",
        sa.Column("id", AsciiId(), nullable=False),
        sa.Column("api_key_id", AsciiId(), nullable=False),
        sa.Column("job_id", AsciiId()),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("target", AsciiId(), nullable=False),
        sa.Column("event_types", JsonText(), nullable=False),
        sa.Column("secret", sa.Text()),
        sa.Column("secret_hint", sa.String()),
        sa.Column("former_secret", sa.Text()),
        sa.Column("former_until", UtcDateTime()),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.Column("failing_since", UtcDateTime()),
        sa.Column("warned_at", UtcDateTime()),
        sa.Column("disabled_at", UtcDateTime()),
        sa.Column("disabled_for", sa.String()),
        _one_of("disabled_for", ("failing", "gone"), "ck_webhook_endpoints_disabled_for"),
        sa.CheckConstraint(
            "(disabled_at IS NULL) = (disabled_for IS NULL)", name=op.f("ck_webhook_endpoints_disabled_for_a_reason")
        ),
        sa.CheckConstraint(
            "(former_secret IS NULL) = (former_until IS NULL)", name=op.f("ck_webhook_endpoints_former_secret_ends")
        ),
        sa.ForeignKeyConstraint(["api_key_id"], ["api_keys.id"], name=op.f("fk_webhook_endpoints_api_key_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_endpoints")),
    )
    _index("ix_webhook_endpoints_disabled", "webhook_endpoints", ["disabled_at"], where="disabled_at IS NOT NULL")
    _index("ix_webhook_endpoints_job", "webhook_endpoints", ["job_id"], unique=True, where="job_id IS NOT NULL")
    _index("ix_webhook_endpoints_list", "webhook_endpoints", ["api_key_id", "id"], where="job_id IS NULL")
    op.create_table(
        "answers",
        sa.Column("job_id", AsciiId(), nullable=False),
        sa.Column("response", JsonText()),
        sa.Column("raw", sa.LargeBinary()),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_answers_job_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_answers")),
    )
    op.create_table(
        "attempt_bodies",
        sa.Column("job_id", AsciiId(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_attempt_bodies_job_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "number", name=op.f("pk_attempt_bodies")),
    )
    op.create_table(
        "idempotency_keys",
        sa.Column("api_key_id", AsciiId(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("body_sha256", sa.String(), nullable=False),
        sa.Column("job_id", AsciiId(), nullable=False),
        sa.ForeignKeyConstraint(["api_key_id"], ["api_keys.id"], name=op.f("fk_idempotency_keys_api_key_id")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_idempotency_keys_job_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("api_key_id", "key", name=op.f("pk_idempotency_keys")),
    )
    _index("ix_idempotency_keys_job_id", "idempotency_keys", ["job_id"])
    op.create_table(
        "job_metadata",
        sa.Column("job_id", AsciiId(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("api_key_id", AsciiId(), nullable=False),
        sa.Column("value", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_job_metadata_job_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "key", name=op.f("pk_job_metadata")),
    )
    _index("ix_job_metadata_list", "job_metadata", ["api_key_id", "key", "value", "job_id"])
    op.create_table(
        "output_items",
        sa.Column("job_id", AsciiId(), nullable=False),
        sa.Column("item_id", AsciiId(), nullable=False),
        sa.Column("api_key_id", AsciiId(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_output_items_job_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "item_id", name=op.f("pk_output_items")),
        sqlite_with_rowid=False,
    )
    _index("ix_output_items_find", "output_items", ["api_key_id", "item_id", "job_id"])
    op.create_table(
        "requests",
        sa.Column("job_id", AsciiId(), nullable=False),
        sa.Column("settings", JsonText(), nullable=False),
        sa.Column("input", JsonText(), nullable=False),
        sa.Column("credentials", sa.Text()),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_requests_job_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_requests")),
    )
    op.create_table(
        "stream_events",
        sa.Column("job_id", AsciiId(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("next_number", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("events", JsonText(), nullable=False),
        sa.Column("progress", JsonText(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_stream_events_job_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "number", name=op.f("pk_stream_events")),
    )
    op.create_table(
        "undelivered_creates",
        sa.Column("job_id", AsciiId(), nullable=False),
        sa.Column("api_key_id", AsciiId(), nullable=False),
        sa.Column("body_sha256", sa.String(), nullable=False),
        sa.Column("request_id", AsciiId(), nullable=False),
        sa.Column("process_id", AsciiId(), nullable=False),
        sa.Column("since", UtcDateTime(), nullable=False),
        sa.Column("lost_at", UtcDateTime()),
        sa.ForeignKeyConstraint(
            ["job_id"], ["jobs.id"], name=op.f("fk_undelivered_creates_job_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_undelivered_creates")),
    )
    _index("ix_undelivered_creates_body", "undelivered_creates", ["api_key_id", "body_sha256"])
    _index("ix_undelivered_creates_request", "undelivered_creates", ["request_id"])
    op.create_table(
        "webhook_deliveries",
        sa.Column("id", AsciiId(), nullable=False),
        sa.Column("event_id", AsciiId(), nullable=False),
        sa.Column("endpoint_id", AsciiId(), nullable=False),
        sa.Column("api_key_id", AsciiId(), nullable=False),
        sa.Column("target", AsciiId(), nullable=False),
        sa.Column("is_test", sa.Boolean(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("available_at", UtcDateTime(), nullable=False),
        sa.Column("enqueued_at", UtcDateTime()),
        sa.Column("claimed_at", UtcDateTime()),
        sa.Column("worker_id", AsciiId()),
        sa.Column("ended_at", UtcDateTime()),
        sa.Column("http_status", sa.Integer()),
        sa.Column("error_kind", sa.String()),
        sa.CheckConstraint(
            "(status = 'sending') = (worker_id IS NOT NULL)", name=op.f("ck_webhook_deliveries_held_by_a_worker")
        ),
        sa.CheckConstraint(
            "(status IN ('pending', 'sending')) = (ended_at IS NULL)", name=op.f("ck_webhook_deliveries_ended_once")
        ),
        _one_of("error_kind", DELIVERY_ERRORS, "ck_webhook_deliveries_error_kind"),
        _one_of("status", ("pending", "sending", "delivered", "failed"), "ck_webhook_deliveries_status"),
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
    _index(
        "ix_webhook_deliveries_due", "webhook_deliveries", ["target", "available_at", "id"], where="status = 'pending'"
    )
    _index("ix_webhook_deliveries_ended", "webhook_deliveries", ["ended_at"], where="ended_at IS NOT NULL")
    _index("ix_webhook_deliveries_event", "webhook_deliveries", ["event_id", "endpoint_id"], unique=True)
    _index("ix_webhook_deliveries_log", "webhook_deliveries", ["endpoint_id", "id"])
    _index("ix_webhook_deliveries_open", "webhook_deliveries", ["created_at"], where="ended_at IS NULL")
    _index("ix_webhook_deliveries_sending", "webhook_deliveries", ["target"], where="status = 'sending'")
    op.create_table(
        "webhook_delivery_attempts",
        sa.Column("delivery_id", AsciiId(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("started_at", UtcDateTime(), nullable=False),
        sa.Column("ended_at", UtcDateTime()),
        sa.Column("http_status", sa.Integer()),
        sa.Column("error_kind", sa.String()),
        _one_of("error_kind", DELIVERY_ERRORS, "ck_webhook_delivery_attempts_error_kind"),
        sa.ForeignKeyConstraint(
            ["delivery_id"],
            ["webhook_deliveries.id"],
            name=op.f("fk_webhook_delivery_attempts_delivery_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("delivery_id", "number", name=op.f("pk_webhook_delivery_attempts")),
    )
    op.bulk_insert(installation, [{"namespace": f"backburner-{token_hex(4)}"}])


def downgrade() -> None:
    for table in (
        "webhook_delivery_attempts",
        "webhook_deliveries",
        "undelivered_creates",
        "stream_events",
        "requests",
        "output_items",
        "job_metadata",
        "idempotency_keys",
        "attempt_bodies",
        "answers",
        "webhook_endpoints",
        "usage_rollup",
        "jobs",
        "attempts",
        "workers",
        "webhook_events",
        "provider_limits",
        "leases",
        "installation",
        "api_processes",
        "api_keys",
    ):
        op.drop_table(table)
