"""Composition root of the API: `uvicorn --factory api.main:create_app`."""

import gc
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial

from fastapi import FastAPI

from api.auth import Callers
from api.connection_limits import FILES_BESIDE, STATE, Connections, Limits
from api.dependencies import AppState
from api.errors import install_error_handlers
from api.failed_sign_ins import SignIns
from api.fast_path import fast_routes
from api.held_limit import Holds
from api.hostname_lookup import Lookups
from api.key_revocation import KeyWatch
from api.middleware import NoSockets, RequestIds, TrailingSlash, allow_origins
from api.paging import Lists
from api.readiness import Probe, look
from api.response_cache import ResponseCache
from api.response_view import read_bodies
from api.routes import health, input_items, models, openapi_page, responses, unsupported, usage, webhook_endpoints
from api.sdk_retry.tracker import TrackDelivery, UndeliveredTracker
from api.sse import Sequences
from api.submit_batch import SubmitBatcher
from jobs.batching import AsyncBatcher
from jobs.celery_app import create_celery
from jobs.encryption import Cipher
from jobs.file_limit import raise_file_limit
from jobs.model_catalog import Catalogue
from jobs.notifications import Listener, Notifier
from jobs.process_tuning import collect_rarely
from jobs.queue_capacity import QueueCapacity
from jobs.redis_url import connect
from jobs.settings import Settings, ignored_variables, load_settings
from jobs.store.api_keys import VARIABLE, ensure_bootstrap_key, find_key
from jobs.store.connection_pool import API_CONNECTIONS
from jobs.store.database import READ_SECONDS, Database, database_now, usable_database
from jobs.store.installation import Installation
from jobs.store.provider_limits import ProviderLimitSettings
from jobs.store.responses import ResponseSummary, ended_among, summaries
from jobs.store.stream_events import emitted_counts
from jobs.store.write_probe import WriteProbe
from jobs.task_queue import TaskQueue
from jobs.telemetry import configure_logging, get_logger, log_ignored
from jobs.webhooks.enqueue import DeliveryEnqueuer

DESCRIPTION = """The durable background job queue for slow reasoning models.

The official OpenAI SDKs are its client: set `base_url` to this server's `/v1` and use one of its API keys.
"""
BODIES_AT_ONCE = 32
"""Most bodies rendered together: they may be large, and are all in memory until the last is rendered."""

log = get_logger(__name__)


def create_app(settings: Settings | None = None) -> FastAPI:
    """Put an API process together. It starts even if database, Redis and broker cannot be reached."""
    settings = settings or _load_settings()
    database = usable_database(settings.database, pool_size=API_CONNECTIONS)
    installation = Installation(database, settings.namespace)
    task_queue = TaskQueue(create_celery(settings), installation.names)
    redis_client = connect(settings.redis)

    def read_summaries(pairs: Sequence[tuple[str, str]]) -> Sequence[ResponseSummary | None]:
        with database.read(within=READ_SECONDS) as tx:
            return summaries(tx, pairs)

    queue_capacity = QueueCapacity(
        database, task_queue, ProviderLimitSettings.from_settings(settings), settings.worker_timeout
    )
    key_watch = KeyWatch(database)
    sign_ins = SignIns()
    state = AppState(
        settings=settings,
        database=database,
        catalogue=Catalogue(settings.models),
        task_queue=task_queue,
        queue_capacity=queue_capacity,
        notifier=Notifier(redis_client, installation.names, DeliveryEnqueuer(database, task_queue).enqueue),
        cipher=Cipher(settings.encryption_keys),
        listener=Listener(
            settings.redis,
            installation.names,
            lambda ids: ended_among(database, ids),
            lambda ids: emitted_counts(database, ids),
            key_watch.look_soon,
        ),
        sequences=Sequences(database),
        undelivered=UndeliveredTracker(database),
        submit_batcher=SubmitBatcher(database, task_queue, queue_capacity),
        holds=Holds(settings.max_held_per_key),
        callers=Callers(database),
        key_watch=key_watch,
        lists=Lists(),
        summaries=AsyncBatcher(read_summaries),
        bodies=AsyncBatcher(lambda pairs: read_bodies(database, pairs, settings.provider_name), most=BODIES_AT_ONCE),
        response_cache=ResponseCache(),
        lookups=Lookups(),
        database_probe=Probe("database probe", partial(look, database, WriteProbe(database), settings)),
        broker_probe=Probe("broker probe", lambda: task_queue.unavailable_reason(installation.known)),
    )

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[dict[str, Connections]]:
        if settings.api_key is not None:
            _ensure_bootstrap_key(database, settings.api_key.get_secret_value())
        limits = Limits.from_settings(settings, raise_file_limit(settings.max_connections + FILES_BESIDE))
        if limits.connections < settings.max_connections:
            log.info("fewer connections than the setting, for the file limit", connections=limits.connections)
        state.undelivered.start()
        await state.listener.start()
        await state.key_watch.start()
        collect_rarely()
        try:
            yield {STATE: Connections(limits)}
        finally:
            gc.unfreeze()
            sign_ins.stop()
            await state.key_watch.stop()
            await state.listener.stop()
            state.undelivered.stop()
            state.lists.stop()
            task_queue.close()
            redis_client.close()
            database.close()

    app = FastAPI(
        title="Backburner",
        version="0.1.0",
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,  # FastAPI's page loads scripts from another host
        redoc_url=None,
        redirect_slashes=False,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # /metrics and the log are ours
    )
    app.state.backburner = state
    routers = (responses, input_items, models, usage)
    for router in (
        responses.direct_router,
        *(each.router for each in routers),
        *webhook_endpoints.routers,
        unsupported.router,
    ):
        app.include_router(router, prefix="/v1")
    app.include_router(health.router)
    app.include_router(openapi_page.router)
    app.mount(openapi_page.FILES, openapi_page.files)
    install_error_handlers(app, sign_ins)
    app.add_middleware(RequestIds)
    app.router.routes[:0] = fast_routes(responses.direct_router.routes, "/v1", state)
    within = allow_origins(app.build_middleware_stack(), settings.cors_origins)
    app.middleware_stack = TrailingSlash(NoSockets(TrackDelivery(within, state.undelivered)))
    return app


def _load_settings() -> Settings:
    settings = load_settings()
    configure_logging(settings)
    log_ignored(ignored_variables())
    return settings


def _ensure_bootstrap_key(database: Database, secret: str) -> None:
    with database.begin() as tx:
        is_new = find_key(tx, secret) is None
        bootstrap = ensure_bootstrap_key(tx, secret, database_now(tx))
    if bootstrap.revoked_at is not None:
        log.warning("the bootstrap key is revoked", key_id=bootstrap.id, hint=f"set another {VARIABLE}")
    elif is_new:
        log.info("bootstrap key set", key_id=bootstrap.id, key=bootstrap.sha256[:8])
