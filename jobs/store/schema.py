"""Every table. CHECK constraints mirror the enums, and a comment at each index names the question that it answers.

A job's row is small, because every transition rewrites it. Its prompt and its answer are written once, in tables of
their own. Attempts are also the usage ledger, so they hold key and model and are kept when their job is erased.
"""

from collections.abc import Iterable
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ColumnElement,
    Date,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TextClause,
    and_,
    literal,
    text,
)

from jobs.errors import Billed, ErrorKind
from jobs.job import CostSource, OnUnknownOutcome, Outcome, Truncation
from jobs.lifecycle import Status
from jobs.store.column_types import AsciiId, JsonText, UtcDateTime
from jobs.webhooks.protocol import DeliveryError, DeliveryStatus, DisabledFor, EventType

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


# For PostgreSQL. With its default of a fifth of the rows, the dead entries of claimed jobs would slow down the search
# for due ones for hours. A fiftieth of ten million rows is still some minutes of full load.
_LARGE_AND_CHANGING = {
    "autovacuum_vacuum_scale_factor": "0.02",
    "autovacuum_vacuum_insert_scale_factor": "0.02",
    "autovacuum_analyze_scale_factor": "0.01",
}


def _one_of(column: str, values: Iterable[str]) -> CheckConstraint:
    listed = ", ".join(f"'{value}'" for value in values)
    return CheckConstraint(f"{column} IN ({listed})", name=column)


def _partial_index(
    name: str, *columns: ColumnElement[Any], where: str | TextClause, sqlite_where: str | None = None, **options: Any
) -> None:
    condition = text(where) if isinstance(where, str) else where
    sqlite_condition = condition if sqlite_where is None else text(sqlite_where)
    Index(name, *columns, postgresql_where=condition, sqlite_where=sqlite_condition, **options)


api_keys = Table(
    "api_keys",
    metadata,
    Column("id", AsciiId, primary_key=True),
    Column("name", String, nullable=False),
    Column("sha256", String, nullable=False, unique=True),
    Column("scopes", JsonText, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("revoked_at", UtcDateTime),
    Column("served_at", UtcDateTime),  # when the fair scheduler last served this key
    postgresql_with={"fillfactor": "50"},  # leaves room to update a row in place in every round
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", AsciiId, primary_key=True),
    Column("api_key_id", AsciiId, ForeignKey("api_keys.id"), nullable=False),
    Column("model", String, nullable=False),
    Column("status", String, nullable=False),
    Column("attempt", Integer, nullable=False, default=0),
    Column("failures", Integer, nullable=False, default=0),
    Column("max_attempts", Integer, nullable=False),
    Column("on_unknown_outcome", String, nullable=False),
    Column("truncation", String, nullable=False),
    Column("truncation_applied", String),
    Column("background", Boolean, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    Column("available_at", UtcDateTime, nullable=False),
    Column("deadline_at", UtcDateTime, nullable=False),
    Column("enqueued_at", UtcDateTime),
    Column("started_at", UtcDateTime),
    Column("completed_at", UtcDateTime),
    Column("worker_id", AsciiId),
    Column("provider_response_id", String),
    Column("provider_model", String),
    Column("incomplete_reason", String),
    Column("error_code", String),
    Column("error_kind", String),
    Column("error_message", Text),
    Column("error_param", String),
    Column("error_http_status", Integer),
    Column("input_tokens", BigInteger),
    Column("output_tokens", BigInteger),
    Column("total_tokens", BigInteger),
    Column("cached_tokens", BigInteger),
    Column("reasoning_tokens", BigInteger),
    Column("cost_microusd", BigInteger),
    Column("cost_source", String),
    Column(
        "parked_until", UtcDateTime
    ),  # until then it waits for the provider's log to show the outcome of its last call
    Column("previous_response_id", AsciiId),  # no foreign key, as that response may be erased first
    Column("blocked_by", AsciiId),  # a response that has to end before this job is due
    Column("sent_responses", Integer),
    Column("sent_items", Integer),
    Column("store", Boolean),  # false: the job is erased soon after its end
    _one_of("status", Status),
    _one_of("on_unknown_outcome", OnUnknownOutcome),
    _one_of("truncation", Truncation),
    _one_of("truncation_applied", Truncation),
    _one_of("error_kind", ErrorKind),
    _one_of("cost_source", CostSource),
    CheckConstraint("priority BETWEEN 0 AND 9", name="priority"),
    CheckConstraint("(status = 'in_progress') = (worker_id IS NOT NULL)", name="held_by_a_worker"),
    CheckConstraint("(status IN ('queued', 'in_progress')) = (completed_at IS NULL)", name="ended_once"),
    CheckConstraint("parked_until IS NULL OR status = 'queued'", name="parked_in_the_queue"),
    postgresql_with={
        "fillfactor": "85",
        **_LARGE_AND_CHANGING,
    },  # leaves room to set enqueued_at without an index write
)

# Literals, because a prepared plan cannot use the partial indexes below for a bound parameter.
# A parked job is not scheduled, and has no queue position.
IS_QUEUED = and_(jobs.c.status == literal(Status.QUEUED, literal_execute=True), jobs.c.parked_until.is_(None))
IS_HELD = jobs.c.status == literal(Status.IN_PROGRESS, literal_execute=True)

# list: responses of a key, newest first, of any or one status or model
Index("ix_jobs_list", jobs.c.api_key_id, jobs.c.id)
Index("ix_jobs_list_by_status", jobs.c.api_key_id, jobs.c.status, jobs.c.id)
Index("ix_jobs_list_by_model", jobs.c.api_key_id, jobs.c.model, jobs.c.id)
# scheduling and queue position: due jobs by priority and key
_partial_index(
    "ix_jobs_due",
    jobs.c.priority,
    jobs.c.api_key_id,
    jobs.c.available_at,
    jobs.c.id,
    where="status = 'queued' AND parked_until IS NULL",
)
# reconciliation: parked jobs by the end of their wait
_partial_index("ix_jobs_parked", jobs.c.parked_until, where="parked_until IS NOT NULL")
# rescue: jobs that a worker holds
_partial_index("ix_jobs_held", jobs.c.worker_id, where="status = 'in_progress'")
# deadlines: open jobs by deadline
_partial_index("ix_jobs_deadline", jobs.c.deadline_at, where="completed_at IS NULL")
# retention: ended jobs by their end
_partial_index("ix_jobs_ended", jobs.c.completed_at, where="completed_at IS NOT NULL")
# store: false: ended jobs that may be erased early
_partial_index(
    "ix_jobs_unstored",
    jobs.c.completed_at,
    where="store = false AND completed_at IS NOT NULL",
    sqlite_where="store = 0 AND completed_at IS NOT NULL",
)
# follow-ups: blocked jobs by the response that they wait for
_partial_index("ix_jobs_waiting", jobs.c.blocked_by, where="blocked_by IS NOT NULL")
# erasure: responses that an open follow-up still needs
_partial_index(
    "ix_jobs_following", jobs.c.previous_response_id, where="previous_response_id IS NOT NULL AND completed_at IS NULL"
)

requests = Table(
    "requests",
    metadata,
    Column("job_id", AsciiId, ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("settings", JsonText, nullable=False),  # the client's body without its input
    Column("input", JsonText, nullable=False),
    Column("credentials", Text),  # encrypted; the other two columns show them as ***
)

answers = Table(
    "answers",
    metadata,
    Column("job_id", AsciiId, ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("response", JsonText),  # normalised; null if the body could not be read as an answer
    Column("raw", LargeBinary),  # the body as the provider sent it
)

output_items = Table(
    "output_items",
    metadata,
    Column("job_id", AsciiId, ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("item_id", AsciiId, primary_key=True),
    Column("api_key_id", AsciiId, nullable=False),
    sqlite_with_rowid=False,
)
# item_reference: the response of a key that holds an item
Index("ix_output_items_find", output_items.c.api_key_id, output_items.c.item_id, output_items.c.job_id)

stream_events = Table(
    "stream_events",
    metadata,
    Column("job_id", AsciiId, ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),  # of the first event
    Column("next_number", Integer, nullable=False),  # the number after the last event
    Column("attempt", Integer, nullable=False),
    Column("events", JsonText, nullable=False),
    Column("progress", JsonText, nullable=False),  # the output that has been emitted up to here
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("api_key_id", AsciiId, ForeignKey("api_keys.id"), primary_key=True),
    Column("key", String, primary_key=True),
    Column("body_sha256", String, nullable=False),
    Column("job_id", AsciiId, ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False, index=True),
)

undelivered_creates = Table(
    "undelivered_creates",
    metadata,
    Column("job_id", AsciiId, ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("api_key_id", AsciiId, nullable=False),
    Column("body_sha256", String, nullable=False),
    Column("request_id", AsciiId, nullable=False),  # the HTTP request to be answered
    Column("process_id", AsciiId, nullable=False),  # the API process that holds its connection
    Column("since", UtcDateTime, nullable=False),
    Column("lost_at", UtcDateTime),  # when the connection was lost
)
# a repeated request: jobs with an equal body whose client was lost
Index("ix_undelivered_creates_body", undelivered_creates.c.api_key_id, undelivered_creates.c.body_sha256)
# creates whose answer was delivered or lost
Index("ix_undelivered_creates_request", undelivered_creates.c.request_id)

api_processes = Table(
    "api_processes",
    metadata,
    Column("id", AsciiId, primary_key=True),
    Column("heartbeat_at", UtcDateTime, nullable=False),
    Column("host", String),
    Column("pid", Integer),
    Column("host_ahead", Float),  # seconds by which that host's clock is ahead
)

job_metadata = Table(
    "job_metadata",
    metadata,
    Column("job_id", AsciiId, ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("key", String, primary_key=True),
    Column("api_key_id", AsciiId, nullable=False),
    Column("value", String, nullable=False),
)
# list by metadata[key]=value
Index(
    "ix_job_metadata_list", job_metadata.c.api_key_id, job_metadata.c.key, job_metadata.c.value, job_metadata.c.job_id
)

attempts = Table(
    "attempts",
    metadata,
    Column("job_id", AsciiId, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("api_key_id", AsciiId, ForeignKey("api_keys.id"), nullable=False),
    Column("model", String, nullable=False),
    Column("worker_id", AsciiId, nullable=False),
    Column("started_at", UtcDateTime, nullable=False),
    Column("ended_at", UtcDateTime),
    Column("outcome", String),
    Column("billed", String, nullable=False),
    Column("truncation", String, nullable=False),
    Column("resumes", String),  # the provider's response that an earlier attempt started and this one fetches
    Column("error_kind", String),
    Column("error_message", Text),
    Column("http_status", Integer),
    Column("provider_request_id", String),
    Column("provider_response_id", String),
    Column("input_tokens", BigInteger),
    Column("output_tokens", BigInteger),
    Column("total_tokens", BigInteger),
    Column("cached_tokens", BigInteger),
    Column("reasoning_tokens", BigInteger),
    Column("cost_microusd", BigInteger),
    Column("cost_source", String),
    Column("reconciled_at", UtcDateTime),  # when the provider's log showed its outcome
    # of a response that the provider stores for its background mode: true once it is to be deleted, null once it is
    Column("copy_unwanted", Boolean),
    _one_of("outcome", Outcome),
    _one_of("billed", Billed),
    _one_of("truncation", Truncation),
    _one_of("error_kind", ErrorKind),
    _one_of("cost_source", CostSource),
    CheckConstraint("(outcome IS NULL) = (ended_at IS NULL)", name="ended_with_an_outcome"),
    postgresql_with=_LARGE_AND_CHANGING,
)
# sums of old attempts; `GET /usage` adds them to those of `attempts`
usage_rollup = Table(
    "usage_rollup",
    metadata,
    Column("api_key_id", AsciiId, ForeignKey("api_keys.id"), primary_key=True),
    Column("day", Date, primary_key=True),  # in UTC
    Column("model", String, primary_key=True),
    Column("outcome", String, primary_key=True),
    Column("calls", BigInteger, nullable=False),
    Column("calls_of_unknown_cost", BigInteger, nullable=False),
    Column("input_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("total_tokens", BigInteger, nullable=False),
    Column("cached_tokens", BigInteger, nullable=False),
    Column("reasoning_tokens", BigInteger, nullable=False),
    Column("cost_microusd", BigInteger, nullable=False),
    _one_of("outcome", Outcome),
)
attempt_bodies = Table(
    "attempt_bodies",
    metadata,
    # refers to the job, because attempts are kept when their job is erased, but bodies are not
    Column("job_id", AsciiId, ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("body", LargeBinary, nullable=False),  # its beginning, if it is large
)

# Texts, so that both databases recognise the condition of a partial index in a query.
IS_DOUBTFUL = text("billed IN ('unknown', 'likely') AND cost_microusd IS NULL AND reconciled_at IS NULL")
IS_UNFETCHED = text(
    "outcome IN ('lost', 'released') AND provider_response_id IS NOT NULL"
    " AND cost_microusd IS NULL AND reconciled_at IS NULL"
)
IS_UNPRICED = text("ended_at IS NOT NULL AND billed <> 'no' AND cost_microusd IS NULL")
# usage by day, model and key; PostgreSQL needs only the index for it
Index(
    "ix_attempts_usage",
    attempts.c.api_key_id,
    attempts.c.started_at,
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
# rescue: open attempts of a worker
_partial_index("ix_attempts_open", attempts.c.worker_id, where="ended_at IS NULL")

# reconciliation: calls of unknown cost
_partial_index("ix_attempts_doubtful", attempts.c.ended_at, where=IS_DOUBTFUL)
# usage: the number of calls of unknown cost
_partial_index(
    "ix_attempts_unpriced", attempts.c.api_key_id, attempts.c.started_at, attempts.c.model, where=IS_UNPRICED
)
# cancellation: calls whose response may still run at the provider
_partial_index("ix_attempts_unfetched", attempts.c.ended_at, where=IS_UNFETCHED)
# erasure: responses that the provider stores and should not
_partial_index(
    "ix_attempts_copy_unwanted", attempts.c.ended_at, where="copy_unwanted = true", sqlite_where="copy_unwanted = 1"
)

workers = Table(
    "workers",
    metadata,
    Column("id", AsciiId, primary_key=True),
    Column("host", String, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("concurrency", Integer, nullable=False),
    Column("started_at", UtcDateTime, nullable=False),
    Column("heartbeat_at", UtcDateTime, nullable=False),
    Column("draining_at", UtcDateTime),  # since when it claims no more jobs
    Column("ended_at", UtcDateTime),  # when it left or was marked dead
    Column("short_of", String),  # why it holds fewer calls than its concurrency, in words
    Column("unrecorded", Integer),  # calls whose outcome it could not record for some seconds
    Column("queues", String),  # it listens to these, separated by commas; null: a release that does not report them
    Column("took_at", UtcDateTime),  # when it last took a message from one of them
    Column("host_ahead", Float),  # seconds by which its host's clock is ahead
)

installation = Table(
    "installation",
    metadata,
    Column("namespace", String, primary_key=True),  # in one row, which the migration inserts
    Column("boot", String),  # the host's boot id, on SQLite
    Column("began_at", UtcDateTime),  # when that boot's clock of elapsed time was zero
)

provider_limits = Table(
    "provider_limits",
    metadata,
    Column("name", String, primary_key=True),  # the provider's host
    Column("max_calls", Integer),  # concurrent calls while throttled; null: as many as there are slots
    Column("throttled_at", UtcDateTime),
    Column("throttled_by", AsciiId),  # the job whose call was refused then
    Column("relaxed_at", UtcDateTime),
    Column("paused_at", UtcDateTime),
    Column("pause_kind", String),
    Column("pause_reason", String),  # in a few words, if the kind does not say it all
    Column("probe_at", UtcDateTime),  # when one job may probe the paused provider
    Column("probes", Integer, nullable=False),
    Column("log_off_until", UtcDateTime),  # when to try again to read the provider's log of calls
    _one_of("pause_kind", ErrorKind),
)

leases = Table(
    "leases",
    metadata,
    Column("name", String, primary_key=True),
    Column("holder", String, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
)

webhook_endpoints = Table(
    "webhook_endpoints",
    metadata,
    Column("id", AsciiId, primary_key=True),
    Column("api_key_id", AsciiId, ForeignKey("api_keys.id"), nullable=False),
    Column("job_id", AsciiId),  # set if a request named it: it gets the events of that job only, and is not listed
    Column("name", String, nullable=False),
    Column("url", Text, nullable=False),
    Column("target", AsciiId, nullable=False),  # key and origin, which share a limit of concurrent deliveries
    Column("event_types", JsonText, nullable=False),
    Column("secret", Text),  # encrypted; null: deliveries are not signed
    Column("secret_hint", String),
    Column("former_secret", Text),  # encrypted; signs beside the new one until former_until
    Column("former_until", UtcDateTime),
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    Column("failing_since", UtcDateTime),
    Column("warned_at", UtcDateTime),
    Column("disabled_at", UtcDateTime),
    Column("disabled_for", String),
    _one_of("disabled_for", DisabledFor),
    CheckConstraint("(disabled_at IS NULL) = (disabled_for IS NULL)", name="disabled_for_a_reason"),
    CheckConstraint("(former_secret IS NULL) = (former_until IS NULL)", name="former_secret_ends"),
)
# list, and endpoints that get a key's events
_partial_index(
    "ix_webhook_endpoints_list", webhook_endpoints.c.api_key_id, webhook_endpoints.c.id, where="job_id IS NULL"
)
# the endpoint of one job; retention
_partial_index("ix_webhook_endpoints_job", webhook_endpoints.c.job_id, where="job_id IS NOT NULL", unique=True)
# metrics: disabled endpoints
_partial_index("ix_webhook_endpoints_disabled", webhook_endpoints.c.disabled_at, where="disabled_at IS NOT NULL")

webhook_events = Table(
    "webhook_events",
    metadata,
    Column("id", AsciiId, primary_key=True),
    Column("api_key_id", AsciiId, nullable=False),
    Column("job_id", AsciiId, nullable=False),  # the job may be erased before its event
    Column("type", String, nullable=False),
    Column("payload", Text, nullable=False),  # the signed body, the same in every delivery attempt
    Column("created_at", UtcDateTime, nullable=False),
    _one_of("type", EventType),
)

webhook_deliveries = Table(
    "webhook_deliveries",
    metadata,
    Column("id", AsciiId, primary_key=True),
    Column("event_id", AsciiId, ForeignKey("webhook_events.id", ondelete="CASCADE"), nullable=False),
    Column("endpoint_id", AsciiId, ForeignKey("webhook_endpoints.id", ondelete="CASCADE"), nullable=False),
    Column("api_key_id", AsciiId, nullable=False),
    Column("target", AsciiId, nullable=False),
    Column("is_test", Boolean, nullable=False),  # attempted once, and ignored for the endpoint's health
    Column("status", String, nullable=False),
    Column("attempts", Integer, nullable=False, default=0),  # fences off stale workers, as the job's attempt does
    Column("failures", Integer, nullable=False, default=0),
    Column("created_at", UtcDateTime, nullable=False),
    Column("available_at", UtcDateTime, nullable=False),
    Column("enqueued_at", UtcDateTime),
    Column("claimed_at", UtcDateTime),
    Column("worker_id", AsciiId),
    Column("ended_at", UtcDateTime),
    Column("http_status", Integer),
    Column("error_kind", String),
    _one_of("status", DeliveryStatus),
    _one_of("error_kind", DeliveryError),
    CheckConstraint("(status = 'sending') = (worker_id IS NOT NULL)", name="held_by_a_worker"),
    CheckConstraint("(status IN ('pending', 'sending')) = (ended_at IS NULL)", name="ended_once"),
)
IS_PENDING = webhook_deliveries.c.status == literal(DeliveryStatus.PENDING, literal_execute=True)
IS_SENDING = webhook_deliveries.c.status == literal(DeliveryStatus.SENDING, literal_execute=True)

# an event goes to an endpoint once; deliveries of an erased event
Index("ix_webhook_deliveries_event", webhook_deliveries.c.event_id, webhook_deliveries.c.endpoint_id, unique=True)
# an endpoint's log, newest first
Index("ix_webhook_deliveries_log", webhook_deliveries.c.endpoint_id, webhook_deliveries.c.id)
# scheduling: due deliveries by target
_partial_index(
    "ix_webhook_deliveries_due",
    webhook_deliveries.c.target,
    webhook_deliveries.c.available_at,
    webhook_deliveries.c.id,
    where="status = 'pending'",
)
# rescue; running deliveries to one target
_partial_index("ix_webhook_deliveries_sending", webhook_deliveries.c.target, where="status = 'sending'")
# metrics: the oldest open delivery
_partial_index("ix_webhook_deliveries_open", webhook_deliveries.c.created_at, where="ended_at IS NULL")
# metrics: deliveries that ended in the last minutes
_partial_index("ix_webhook_deliveries_ended", webhook_deliveries.c.ended_at, where="ended_at IS NOT NULL")

webhook_delivery_attempts = Table(
    "webhook_delivery_attempts",
    metadata,
    Column("delivery_id", AsciiId, ForeignKey("webhook_deliveries.id", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("started_at", UtcDateTime, nullable=False),
    Column("ended_at", UtcDateTime),
    Column("http_status", Integer),
    Column("error_kind", String),  # null with ended_at set: it was delivered
    _one_of("error_kind", DeliveryError),
)
