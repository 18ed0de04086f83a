"""What `doctor` looks at on our side: the data directory, the database, the broker, Redis, workers, limits, models."""

import os
import resource
from collections.abc import Iterator
from datetime import date, timedelta

import redis
from kombu.utils.url import maybe_sanitize_url
from redis.exceptions import RedisError
from sqlalchemy.exc import SQLAlchemyError

import migrations
from cli.connection import read_secret
from cli.database import reason_of, shown
from cli.datadir import ENCRYPTION_KEY_FILE
from cli.finding import Finding, bad, doubtful, good
from jobs.broker import BROKER_ERRORS
from jobs.dispatch import create_celery
from jobs.models import Catalogue
from jobs.sealing import VARIABLE
from jobs.settings import Settings
from jobs.store.database import Database, database_now
from jobs.store.lanes import Lane, LaneSettings, read_lane
from jobs.store.workers import live_workers

PATIENCE_SECONDS = 3
FILES_BESIDE_CALLS = 200
SOON = timedelta(days=60)
START_WORKER = "start one: make up, or backburner worker"


def check_data_dir(settings: Settings) -> Finding:
    """Whether the data directory can be used, and whether others can look into it."""
    path = settings.data_dir
    if not path.exists():
        return good("data dir", f"{path} does not exist yet; it is made on first start")
    if not path.is_dir() or not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        return bad("data dir", f"{path} cannot be written to", "set BACKBURNER_DATA_DIR to a directory of yours")
    if path.stat().st_mode & 0o077:
        return doubtful("data dir", f"{path} is open to others, with prompts and answers in it", f"chmod 700 {path}")
    return good("data dir", str(path))


def check_database(settings: Settings) -> Iterator[Finding]:
    """Whether the database is there, at this release, and whether a live worker shows in it."""
    if settings.database_url is None and not (settings.data_dir / "backburner.db").exists():
        yield bad("database", f"{shown(settings)} does not exist yet", "run: make up, or backburner migrate")
        return
    database = Database(settings.database, pool_size=1)
    try:
        with database.read() as tx:
            if not migrations.is_current(tx):
                yield bad("database", f"{shown(settings)} is not at this release", "run: backburner migrate")
                return
            workers = live_workers(tx, database_now(tx), settings.worker_timeout)
            lane = read_lane(tx, settings.lane)
    except SQLAlchemyError as error:
        yield bad("database", f"{shown(settings)}: {reason_of(error)}", "check BACKBURNER_DATABASE_URL")
        return
    finally:
        database.close()
    yield good("database", shown(settings))
    slots = sum(worker.concurrency for worker in workers if worker.draining_at is None)
    if not workers:
        yield bad("worker", "no live worker: what is submitted stays queued", START_WORKER)
    elif not slots:
        yield doubtful("worker", f"all {len(workers)} workers are shutting down", START_WORKER)
    else:
        yield good("worker", f"{len(workers)} live, {slots} calls at once")
    yield _check_lane(lane, settings)


def _check_lane(lane: Lane, settings: Settings) -> Finding:
    """Whether calls may go out to the provider, as its answers to our workers left it."""
    if lane.closed_for is not None:
        hint = "check the provider's key and credit; a probe goes out every 30 s at the latest, then all jobs run"
        return bad(
            "lane", f"closed: the provider refuses calls ({lane.closed_for}); jobs wait, no attempt is used", hint
        )
    limit = LaneSettings.from_settings(settings).limit(lane)
    if lane.max_calls is not None:
        return doubtful("lane", f"narrowed to {limit} calls at once: the provider said it was too many", "")
    return good("lane", "open" if limit is None else f"open, {limit} calls at once")


def check_webhooks(settings: Settings) -> Finding:
    """Whether signing secrets can be kept, and what operators let through beside the public."""
    try:
        kept = read_secret(settings.data_dir / ENCRYPTION_KEY_FILE)
    except OSError:  # another's, so of no use to us
        kept = None
    if not settings.encryption_keys and kept is None:
        hint = f"set {VARIABLE} to a key from: python -c 'from jobs.sealing import generate_key as k; print(k())'"
        return doubtful("webhooks", "no encryption key: endpoints cannot be registered", hint)
    opened = [str(network) for network in settings.webhook_allow_networks]
    if settings.webhook_allow_http:
        opened.insert(0, "http")
    return good("webhooks", f"opened: {', '.join(opened)}" if opened else "https to public addresses")


def check_redis(url: str) -> Finding:
    """Whether Redis or Valkey answers at `url`."""
    client = redis.Redis.from_url(url, socket_connect_timeout=PATIENCE_SECONDS, socket_timeout=PATIENCE_SECONDS)
    try:
        client.ping()
    except (RedisError, OSError) as error:
        return bad("redis", f"{maybe_sanitize_url(url)}: {error}", "check BACKBURNER_REDIS_URL, and that it runs")
    finally:
        client.close()
    return good("redis", str(maybe_sanitize_url(url)))


def check_broker(settings: Settings) -> Finding:
    """Whether the broker takes connections."""
    app = create_celery(settings)
    url = maybe_sanitize_url(settings.broker)
    try:
        with app.connection_for_read(connect_timeout=PATIENCE_SECONDS) as connection:
            connection.ensure_connection(max_retries=0, timeout=PATIENCE_SECONDS)
            connection.default_channel.close()
    except BROKER_ERRORS as error:
        return bad("broker", f"{url}: {error}", "check BACKBURNER_BROKER_URL, and that it runs")
    finally:
        app.close()
    return good("broker", str(url))


def check_file_limit(settings: Settings) -> Finding:
    """Whether a worker may open a socket per call and delivery. It raises the soft limit to the hard one itself."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = settings.worker_concurrency + settings.webhook_concurrency + FILES_BESIDE_CALLS
    if hard != resource.RLIM_INFINITY and hard < needed:
        hint = f"raise the hard limit to {needed} (ulimit -Hn), or lower BACKBURNER_WORKER_CONCURRENCY"
        return doubtful("file limit", f"{hard} files for {settings.worker_concurrency} calls at once", hint)
    limit = "unlimited" if soft == resource.RLIM_INFINITY else f"{max(soft, needed)} files"
    return good("file limit", f"{limit} for {settings.worker_concurrency} calls at once")


def check_shutdown_dates(settings: Settings, today: date) -> Iterator[Finding]:
    """Which of the models offered are about to be withdrawn, or are gone."""
    for model in Catalogue(settings.models).models:
        if model.shutdown_date is None or model.shutdown_date - today > SOON:
            continue
        days = (model.shutdown_date - today).days
        when = f"in {days} days" if days > 0 else "today" if days == 0 else f"{-days} days ago"
        yield doubtful(
            "model",
            f"{model.id} is announced to be withdrawn on {model.shutdown_date}, {when}",
            "name its successor in BACKBURNER_MODELS; jobs that come too late fail as model_unavailable",
        )
