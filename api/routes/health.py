"""Routes for the operator, without an API key: liveness, readiness and metrics."""

from asyncio import gather
from datetime import datetime, timedelta

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Gauge, generate_latest
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from api.dependencies import AppState, StateDep
from api.readiness import DatabaseState, unreadable
from api.response_body import Readiness
from jobs.store.database import database_now
from jobs.store.provider_limits import ProviderLimitSettings, read_provider_limit
from jobs.store.responses import count_open, oldest_due_at
from jobs.store.webhooks.delivery_log import count_ended_deliveries, count_open_deliveries, oldest_undelivered_at
from jobs.store.webhooks.endpoints import count_disabled
from jobs.store.workers import live_workers
from jobs.telemetry import get_logger

RECENTLY = timedelta(minutes=15)

router = APIRouter(tags=["operations"])

log = get_logger(__name__)


@router.get("/healthz", summary="Liveness")
async def healthz() -> dict[str, str]:
    """Answer if the process is alive."""
    return {"status": "ok"}


@router.get(
    "/readyz",
    summary="Readiness",
    responses={200: {"model": Readiness}, 503: {"model": Readiness, "description": "`missing` names what is missing."}},
)
async def readyz(state: StateDep) -> Response:
    """Check that a response submitted now would run.

    The database must take writes, the broker must answer, a worker must be connected to the queue and take jobs, and
    the provider must accept this server's key and credit. `reasons` explains each thing that is missing; `backburner
    doctor` shows the same list.
    """
    body = await _readiness(state)
    return JSONResponse(body, 503 if body["missing"] else 200)


async def _readiness(state: AppState) -> dict[str, object]:
    # not in the threads of the handlers, which may all wait for a silent database
    database, broker_away = await gather(_look_at_database(state), _look_at_broker(state))
    faults = database.faults(broker_away)
    missing = {each.of.value: each.reason for each in faults if each.is_missing}
    if database.reason is not None:
        log.warning("not ready", database=database.reason)
    return {
        "status": "unavailable" if missing else "ok",
        "missing": list(missing),
        "reasons": missing,
        "warnings": [each.reason for each in faults if not each.is_missing],
        "waiting": database.waiting(broker_away),
        "provider": database.provider_limit,
    }


async def _look_at_database(state: AppState) -> DatabaseState:
    try:
        return await state.database_probe.ask()
    except (SQLAlchemyError, TimeoutError) as error:
        return unreadable(error)


async def _look_at_broker(state: AppState) -> str | None:
    """Return why the broker takes no messages; None if it takes them."""
    try:
        return await state.broker_probe.ask()
    except TimeoutError:
        return "it does not answer in time"


@router.get(
    "/metrics",
    summary="Metrics",
    response_class=PlainTextResponse,
    responses={503: {"description": "The database does not answer."}},
)
def metrics(state: StateDep) -> Response:
    """Metrics for Prometheus, read from the database at this moment, so that all processes show the same.

    Numbers of waiting jobs above 10,000 are estimates.
    """
    registry = CollectorRegistry()
    with state.database.read() as tx:
        jobs = Gauge("backburner_jobs", "Open jobs by status.", ["status"], registry=registry)
        for status, count in count_open(tx).items():
            jobs.labels(status).set(count)
        workers = live_workers(tx, database_now(tx), state.settings.worker_timeout)
        Gauge("backburner_workers", "Live workers.", registry=registry).set(len(workers))
        slots = Gauge("backburner_slots", "Calls that the live workers can hold at once.", registry=registry)
        total = sum(worker.concurrency for worker in workers)
        slots.set(total)
        settings = ProviderLimitSettings.from_settings(state.settings)
        provider_limit = read_provider_limit(tx, settings.name)
        oldest = oldest_due_at(tx)
        _webhook_metrics(tx, registry, state.database.clock())
    age = 0.0 if oldest is None else max(0.0, (state.database.clock() - oldest).total_seconds())
    Gauge(
        "backburner_oldest_due_seconds", "Seconds for which the longest waiting due job has waited.", registry=registry
    ).set(age)
    limit = settings.limit(provider_limit)
    at_once = Gauge(
        "backburner_provider_limit", "Calls that may be in flight to the provider at once.", registry=registry
    )
    at_once.set(total if limit is None else min(limit, total))
    active = Gauge("backburner_provider_active", "0 while calls to the provider are paused.", registry=registry)
    active.set(provider_limit.paused_at is None)
    messages = Gauge("backburner_queued_messages", "Messages in the broker's queue.", registry=registry)
    depth = state.task_queue.depth()
    messages.set(float("nan") if depth is None else depth)
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


def _webhook_metrics(tx: Connection, registry: CollectorRegistry, now: datetime) -> None:
    """Add the metrics of deliveries. Of ended ones only the last 15 minutes are counted, as there may be millions."""
    open_deliveries = Gauge(
        "backburner_webhook_deliveries", "Open deliveries by status.", ["status"], registry=registry
    )
    for status, count in count_open_deliveries(tx).items():
        open_deliveries.labels(status).set(count)
    ended = Gauge(
        "backburner_webhook_ended", "Deliveries that ended within 15 minutes, by status.", ["status"], registry=registry
    )
    for status, count in count_ended_deliveries(tx, now - RECENTLY).items():
        ended.labels(status).set(count)
    oldest = oldest_undelivered_at(tx)
    age = Gauge(
        "backburner_webhook_oldest_seconds", "Seconds since the oldest open delivery was created.", registry=registry
    )
    age.set(0.0 if oldest is None else max(0.0, (now - oldest).total_seconds()))
    disabled = Gauge("backburner_webhook_endpoints_disabled", "Endpoints that are disabled.", registry=registry)
    disabled.set(count_disabled(tx))
