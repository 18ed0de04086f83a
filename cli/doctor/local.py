"""Checks of our own side: the data directory, database, broker, Redis, workers, limits and models."""

import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, timedelta
from secrets import token_hex

from kombu.utils.url import maybe_sanitize_url
from redis.exceptions import NoPermissionError, RedisError
from sqlalchemy.exc import SQLAlchemyError

from api.readiness import THROTTLED, DatabaseState, Subject, look, unreadable
from cli.database import reason_of, shown
from cli.doctor.database import LONG_SECONDS, check_connections, check_locks, check_pooler
from cli.doctor.result import CheckResult, failed, passed, warning
from cli.server_address import read_secret
from cli.up.data_dir import ENCRYPTION_KEY_FILE
from jobs.broker_connection import (
    ANSWERS,
    BROKER_ERRORS,
    CLUSTER_ERRORS,
    queue_length,
    refusal_of,
    try_queue,
    try_write,
)
from jobs.broker_names import Names
from jobs.celery_app import create_celery
from jobs.encryption import VARIABLE
from jobs.model_catalog import Catalogue
from jobs.redis_url import connect
from jobs.settings import Settings
from jobs.store.account_refusals import REFUSALS
from jobs.store.database import Database
from jobs.store.installation import Installation
from jobs.store.workers import CALLS
from jobs.store.write_probe import UNREACHABLE, WriteProbe

MAX_WAIT_SECONDS = 3
DEFAULT_NAME = "backburner"
"""The channel that is tried, and the namespace while no database says which one is the installation's."""
SOON = timedelta(days=60)
WAITING_HINT = (
    "without free slots: raise BACKBURNER_WORKER_CONCURRENCY or start more workers; else see the workers' logs"
)
CLOCKS_OF_POSTGRESQL = (
    "jobs are not affected, but certificates, logs and webhook signatures are: set the clock by NTP (timedatectl "
    "set-ntp true); if every host is off, the database server's clock is wrong"
)
CLOCKS_OF_SQLITE = (
    "set it by NTP (timedatectl set-ntp true); Backburner's time follows it, by 36 s an hour while jobs are open, and "
    "at once when none is"
)
START_WORKER = "start one: make up, or backburner worker"
CHECK_URL = "check BACKBURNER_DATABASE_URL"


def check_data_dir(settings: Settings) -> CheckResult:
    """Check that the data directory can be used and is private."""
    path = settings.data_dir
    if not path.exists():
        return passed("data dir", f"{path} does not exist yet; it is created on first start")
    if not path.is_dir() or not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        return failed("data dir", f"{path} cannot be written to", "set BACKBURNER_DATA_DIR to a directory that you own")
    if path.stat().st_mode & 0o077:
        return warning("data dir", f"other users can read {path}, which holds prompts and answers", f"chmod 700 {path}")
    return passed("data dir", str(path))


def check_database(settings: Settings, broker_away: str | None) -> Iterator[CheckResult]:
    """Check that the database answers and is at this release, and everything that `/readyz` reads from it.

    `broker_away` is the reason why the broker takes no messages, or None if it does.
    """
    if _has_no_file(settings):
        yield failed("database", f"{shown(settings)} does not exist yet", "run: make up, or backburner migrate")
        return
    database = Database(settings.database, pool_size=1)
    server: list[CheckResult] = []
    detail = ""
    try:
        server += check_locks(database)  # first, as a locked table would block the other checks
        state = look(database, WriteProbe(database), settings)
        if state.reason is None and state.is_migrated:
            with database.read(within=LONG_SECONDS) as tx:
                server += [*check_connections(tx, state.workers), *check_pooler(tx, database)]
    except SQLAlchemyError as error:
        state = unreadable(error)
        detail = f" ({reason_of(error)})" if state.reason == UNREACHABLE else ""
    finally:
        database.close()
    faults: dict[Subject, list[str]] = {}
    for each in state.faults(broker_away):
        faults.setdefault(each.of, []).append(each.reason)
    if not state.is_migrated:
        yield failed("database", f"{shown(settings)}: {faults[Subject.MIGRATIONS][0]}", "run: backburner migrate")
    elif state.reason is None:
        yield passed("database", shown(settings))
    else:
        hint = "until this is fixed, requests are refused and answers wait to be recorded"
        yield failed("database", f"{shown(settings)}: {state.reason}{detail}", CHECK_URL if detail else hint)
    yield from server
    if state.reason is None and state.is_migrated:
        yield _check_workers(state, faults)
        yield from _check_waiting(state, broker_away)
    yield from _check_limits(state, faults)
    yield from _check_clocks(state, faults, is_sqlite=database.is_sqlite)
    if state.provider_limit is not None:
        yield _check_provider_limit(state.provider_limit, faults)


Faults = Mapping[Subject, Sequence[str]]
"""The reasons that `/readyz` gives, by subject."""


def _check_workers(state: DatabaseState, faults: Faults) -> CheckResult:
    if Subject.WORKER in faults:
        return failed("worker", f"{faults[Subject.WORKER][0]}: submitted jobs stay queued", START_WORKER)
    available = [each for each in state.workers if each.takes(CALLS)]
    return passed("worker", f"{len(available)} live, {sum(each.concurrency for each in available)} calls at once")


def _check_waiting(state: DatabaseState, broker_away: str | None) -> Iterator[CheckResult]:
    waiting = state.waiting(broker_away)
    if waiting is not None and state.overdue is not None:
        result = failed if state.overdue.is_fault else warning
        yield result("waiting", f"{waiting['id']} is due for {state.waited:.0f} s: {waiting['reason']}", WAITING_HINT)


def _check_limits(state: DatabaseState, faults: Faults) -> Iterator[CheckResult]:
    """Check that workers hold as many calls as configured and can record outcomes, by their own reports."""
    for each in faults.get(Subject.LIMITS, ()):
        hint = "raise this limit for the worker's process (ulimit -n, LimitNOFILE), or lower its concurrency"
        yield warning("limits", each, hint)
    if state.workers and Subject.LIMITS not in faults:
        yield passed("limits", "no worker is short of files, memory or threads")
    for each in faults.get(Subject.ANSWERS, ()):
        hint = "no answer is lost: the worker keeps it in a file and retries until it is recorded"
        yield warning("answers", each, hint)


def _check_clocks(state: DatabaseState, faults: Faults, *, is_sqlite: bool) -> Iterator[CheckResult]:
    """Check that the hosts' clocks agree with Backburner's time, by the reports of their processes."""
    for each in faults.get(Subject.CLOCKS, ()):
        yield warning("clocks", each, CLOCKS_OF_SQLITE if is_sqlite else CLOCKS_OF_POSTGRESQL)
    if (state.workers or state.apis) and Subject.CLOCKS not in faults:
        yield passed("clocks", "no host's clock is off")


def _check_provider_limit(provider_limit: Mapping[str, object], faults: Faults) -> CheckResult:
    """Check whether the provider takes calls, judging by its last answers to the workers."""
    if provider_limit["state"] is not None:
        hint = "see `provider` below; a probe is sent at least every 30 s, and all jobs run once one succeeds"
        if provider_limit["reason"] in REFUSALS:
            hint = "check the provider's key and credit; a probe is sent at least every 30 s, then all jobs run"
        result = failed if Subject.PROVIDER in faults else warning
        return result("provider limit", f"paused: {provider_limit['state']}; jobs wait and use no attempts", hint)
    limit = provider_limit["max_calls"]
    if provider_limit["limit"] == THROTTLED:
        return warning("provider limit", f"throttled to {limit} calls at once: the provider refused more", "")
    return passed("provider limit", "active" if limit is None else f"active, {limit} calls at once")


def check_webhooks(settings: Settings) -> CheckResult:
    """Check that signing secrets can be encrypted, and report which non-public destinations are allowed."""
    try:
        generated = read_secret(settings.data_dir / ENCRYPTION_KEY_FILE)
    except OSError:  # not readable for us, so it is of no use
        generated = None
    if not settings.encryption_keys and generated is None:
        hint = f"set {VARIABLE} to a key from: python -c 'from jobs.encryption import generate_key as k; print(k())'"
        return warning("webhooks", "no encryption key: endpoints cannot be registered", hint)
    allowed = [str(network) for network in settings.webhook_allow_networks]
    if settings.webhook_allow_http:
        allowed.insert(0, "http")
    return passed("webhooks", f"also allowed: {', '.join(allowed)}" if allowed else "https to public addresses")


def check_redis(url: str) -> CheckResult:
    """Check that Redis or Valkey answers at `url`, and that this user may publish and subscribe."""
    client = connect(url)
    try:
        with client.pubsub() as subscription:  # type: ignore[no-untyped-call]  # the client's own
            subscription.subscribe(DEFAULT_NAME)
            subscription.get_message(timeout=MAX_WAIT_SECONDS)
        client.publish(DEFAULT_NAME, "")
    except NoPermissionError as error:
        hint = "responses run, but cancellations and streams are up to 5 s late: grant PUBLISH, SUBSCRIBE, channels"
        return warning("redis", f"{_shown(url)}: {refusal_of(error)}", hint)
    except (RedisError, OSError) as error:
        refusal = refusal_of(error)
        reason = refusal if refusal.startswith(ANSWERS) else error
        return failed("redis", f"{_shown(url)}: {reason}", "check BACKBURNER_REDIS_URL, and that the server runs")
    finally:
        client.close()
    return passed("redis", _shown(url))


def _shown(url: str) -> str:
    """Return the URL without its password and its query, which may hold the password of the Sentinels."""
    return str(maybe_sanitize_url(url)).partition("?")[0]


def check_broker(settings: Settings) -> CheckResult:
    """Check that the broker takes a message and delivers it."""
    app = create_celery(settings)
    url = _shown(settings.broker)
    names = _names(settings)
    trial = f"{names.trial}.{token_hex(4)}"  # a queue of our own, so that no other `doctor` takes our message
    try:
        with app.connection_for_read(connect_timeout=MAX_WAIT_SECONDS) as connection:
            connection.ensure_connection(max_retries=0, timeout=MAX_WAIT_SECONDS)
            try_write(connection, trial)
            if not try_queue(connection, trial, MAX_WAIT_SECONDS):
                return failed("broker", f"{url} takes messages and delivers none", "check the broker's own log")
            queue_length(connection, names.calls)
    except CLUSTER_ERRORS:
        return failed(
            "broker", f"{url} is a Redis Cluster, which cannot keep the queue", "name one server, or Sentinels"
        )
    except BROKER_ERRORS as error:
        refusal = refusal_of(error)
        if refusal.startswith(ANSWERS):
            hint = "jobs are accepted and run once it takes writes again; if it is a replica, name the primary"
            return failed("broker", f"{url}: {refusal}", hint)
        return failed("broker", f"{url}: {error}", "check BACKBURNER_BROKER_URL, and that the server runs")
    finally:
        app.close()
    return passed("broker", f"{url} takes messages and delivers them")


def _names(settings: Settings) -> Names:
    """Return the names of the installation, or default ones if its database cannot be read."""
    if settings.namespace is None and _has_no_file(settings):
        return Names(DEFAULT_NAME)
    database = Database(settings.database, pool_size=1)
    try:
        return Installation(database, settings.namespace).names()
    except SQLAlchemyError:
        return Names(DEFAULT_NAME)
    finally:
        database.close()


def _has_no_file(settings: Settings) -> bool:
    return settings.database_url is None and not (settings.data_dir / "backburner.db").exists()


def check_shutdown_dates(settings: Settings, today: date) -> Iterator[CheckResult]:
    """Warn of configured models that are withdrawn within 60 days or already are."""
    for model in Catalogue(settings.models).models:
        if model.shutdown_date is None or model.shutdown_date - today > SOON:
            continue
        days = (model.shutdown_date - today).days
        when = f"in {days} days" if days > 0 else "today" if days == 0 else f"{-days} days ago"
        yield warning(
            "model",
            f"{model.id} will be withdrawn on {model.shutdown_date}, {when}",
            "name its successor in BACKBURNER_MODELS; later jobs fail with model_unavailable",
        )
