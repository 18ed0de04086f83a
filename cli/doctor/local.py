"""What `doctor` looks at on our side: the data directory, the database, the broker, Redis, workers, limits, models."""

import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, timedelta
from secrets import token_hex

from kombu.utils.url import maybe_sanitize_url
from redis.exceptions import NoPermissionError, RedisError
from sqlalchemy.exc import SQLAlchemyError

from api.readiness import THROTTLED, DatabaseState, Subject, look, unseen
from cli.database import reason_of, shown
from cli.doctor.database import LONG_SECONDS, check_connections, check_locks, check_pooler
from cli.doctor.result import Finding, bad, doubtful, good
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
NOBODY = "backburner"
SOON = timedelta(days=60)
WAITING_HINT = "more slots: BACKBURNER_WORKER_CONCURRENCY, or more workers; a fault: the workers' logs"
CLOCKS_OF_POSTGRESQL = (
    "no job is affected, but certificates, logs and webhook signatures are: keep it right by NTP (timedatectl set-ntp "
    "true); where every host is off, it is the database server's clock"
)
CLOCKS_OF_SQLITE = (
    "keep it right by NTP (timedatectl set-ntp true); Backburner's time follows it, by 36 s an hour while jobs are "
    "open, and at once when none is"
)
START_WORKER = "start one: make up, or backburner worker"
CHECK_URL = "check BACKBURNER_DATABASE_URL"


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


def check_database(settings: Settings, broker_away: str | None) -> Iterator[Finding]:
    """Whether the database is there, at this release, and what `/readyz` names as well: its list is the same.

    `broker_away` is why the broker takes no messages, if it takes none.
    """
    if _has_no_file(settings):
        yield bad("database", f"{shown(settings)} does not exist yet", "run: make up, or backburner migrate")
        return
    database = Database(settings.database, pool_size=1)
    beside: list[Finding] = []
    detail = ""
    try:
        beside += check_locks(database)  # before what a locked table would hold up
        state = look(database, WriteProbe(database), settings)
        if state.reason is None and state.is_migrated:
            with database.read(within=LONG_SECONDS) as tx:
                beside += [*check_connections(tx, state.workers), *check_pooler(tx, database)]
    except SQLAlchemyError as error:
        state = unseen(error)
        detail = f" ({reason_of(error)})" if state.reason == UNREACHABLE else ""
    finally:
        database.close()
    faults: dict[Subject, list[str]] = {}
    for each in state.faults(broker_away):
        faults.setdefault(each.of, []).append(each.reason)
    if not state.is_migrated:
        yield bad("database", f"{shown(settings)}: {faults[Subject.MIGRATIONS][0]}", "run: backburner migrate")
    elif state.reason is None:
        yield good("database", shown(settings))
    else:
        hint = "until then requests are refused, and answers wait to be recorded"
        yield bad("database", f"{shown(settings)}: {state.reason}{detail}", CHECK_URL if detail else hint)
    yield from beside
    if state.reason is None and state.is_migrated:
        yield _check_workers(state, faults)
        yield from _check_waiting(state, broker_away)
    yield from _check_limits(state, faults)
    yield from _check_clocks(state, faults, is_sqlite=database.is_sqlite)
    if state.provider_limit is not None:
        yield _check_provider_limit(state.provider_limit, faults)


Faults = Mapping[Subject, Sequence[str]]
"""The reasons that `/readyz` gives."""


def _check_workers(state: DatabaseState, faults: Faults) -> Finding:
    if Subject.WORKER in faults:
        return bad("worker", f"{faults[Subject.WORKER][0]}: what is submitted stays queued", START_WORKER)
    takers = [each for each in state.workers if each.takes(CALLS)]
    return good("worker", f"{len(takers)} live, {sum(each.concurrency for each in takers)} calls at once")


def _check_waiting(state: DatabaseState, broker_away: str | None) -> Iterator[Finding]:
    waiting = state.waiting(broker_away)
    if waiting is not None and state.overdue is not None:
        say = bad if state.overdue.is_fault else doubtful
        yield say("waiting", f"{waiting['id']} is due for {state.waited:.0f} s: {waiting['reason']}", WAITING_HINT)


def _check_limits(state: DatabaseState, faults: Faults) -> Iterator[Finding]:
    """Whether workers hold as many calls as they are set to, and can record their ends; each says so itself."""
    for each in faults.get(Subject.LIMITS, ()):
        hint = "raise that limit for the worker's own process (ulimit -n, LimitNOFILE), or lower its concurrency"
        yield doubtful("limits", each, hint)
    if state.workers and Subject.LIMITS not in faults:
        yield good("limits", "no worker is short of files, memory or threads")
    for each in faults.get(Subject.ANSWERS, ()):
        hint = "no answer is lost: it tries again until it is recorded, and keeps it as a file meanwhile"
        yield doubtful("answers", each, hint)


def _check_clocks(state: DatabaseState, faults: Faults, *, is_sqlite: bool) -> Iterator[Finding]:
    """Whether the clocks of the hosts agree with Backburner's time, as the processes on them say."""
    for each in faults.get(Subject.CLOCKS, ()):
        yield doubtful("clocks", each, CLOCKS_OF_SQLITE if is_sqlite else CLOCKS_OF_POSTGRESQL)
    if (state.workers or state.apis) and Subject.CLOCKS not in faults:
        yield good("clocks", "no host's clock is off")


def _check_provider_limit(provider_limit: Mapping[str, object], faults: Faults) -> Finding:
    """Check whether the provider takes calls, judging by its last answers to the workers."""
    if provider_limit["state"] is not None:
        hint = "see `provider` above; a probe goes out every 30 s at the latest, and once one is taken all jobs run"
        if provider_limit["reason"] in REFUSALS:
            hint = "check the provider's key and credit; a probe goes out every 30 s at the latest, then all jobs run"
        say = bad if Subject.PROVIDER in faults else doubtful
        return say("provider limit", f"paused: {provider_limit['state']}; jobs wait, no attempt is used", hint)
    limit = provider_limit["max_calls"]
    if provider_limit["limit"] == THROTTLED:
        return doubtful("provider limit", f"throttled to {limit} calls at once: the provider said it was too many", "")
    return good("provider limit", "active" if limit is None else f"active, {limit} calls at once")


def check_webhooks(settings: Settings) -> Finding:
    """Whether signing secrets can be kept, and what operators let through beside the public."""
    try:
        kept = read_secret(settings.data_dir / ENCRYPTION_KEY_FILE)
    except OSError:  # another's, so of no use to us
        kept = None
    if not settings.encryption_keys and kept is None:
        hint = f"set {VARIABLE} to a key from: python -c 'from jobs.encryption import generate_key as k; print(k())'"
        return doubtful("webhooks", "no encryption key: endpoints cannot be registered", hint)
    opened = [str(network) for network in settings.webhook_allow_networks]
    if settings.webhook_allow_http:
        opened.insert(0, "http")
    return good("webhooks", f"opened: {', '.join(opened)}" if opened else "https to public addresses")


def check_redis(url: str) -> Finding:
    """Whether Redis or Valkey answers at `url`, and this user may tell and hear of events there."""
    client = connect(url)
    try:
        with client.pubsub() as heard:  # type: ignore[no-untyped-call]  # the client's own
            heard.subscribe(NOBODY)
            heard.get_message(timeout=MAX_WAIT_SECONDS)
        client.publish(NOBODY, "")
    except NoPermissionError as error:
        hint = "responses run, but cancellations and streams wait for up to 5 s: grant PUBLISH, SUBSCRIBE and channels"
        return doubtful("redis", f"{_shown(url)}: {refusal_of(error)}", hint)
    except (RedisError, OSError) as error:
        refusal = refusal_of(error)
        said = refusal if refusal.startswith(ANSWERS) else error
        return bad("redis", f"{_shown(url)}: {said}", "check BACKBURNER_REDIS_URL, and that it runs")
    finally:
        client.close()
    return good("redis", _shown(url))


def _shown(url: str) -> str:
    """The URL without its password, and without what stands behind a question mark: the Sentinels' password may."""
    return str(maybe_sanitize_url(url)).partition("?")[0]


def check_broker(settings: Settings) -> Finding:
    """Whether the broker takes a message and hands it out again."""
    app = create_celery(settings)
    url = _shown(settings.broker)
    names = _names(settings)
    trial = f"{names.trial}.{token_hex(4)}"  # nobody else who looks now takes our message
    try:
        with app.connection_for_read(connect_timeout=MAX_WAIT_SECONDS) as connection:
            connection.ensure_connection(max_retries=0, timeout=MAX_WAIT_SECONDS)
            try_write(connection, trial)
            if not try_queue(connection, trial, MAX_WAIT_SECONDS):
                return bad("broker", f"{url} takes messages and hands none out", "check the broker's own log")
            queue_length(connection, names.calls)
    except CLUSTER_ERRORS:
        return bad("broker", f"{url} is a Redis Cluster, which cannot keep the queue", "name one server, or Sentinels")
    except BROKER_ERRORS as error:
        refusal = refusal_of(error)
        if refusal.startswith(ANSWERS):
            hint = "jobs are accepted meanwhile, and run once it takes writes again; a replica: name the primary"
            return bad("broker", f"{url}: {refusal}", hint)
        return bad("broker", f"{url}: {error}", "check BACKBURNER_BROKER_URL, and that it runs")
    finally:
        app.close()
    return good("broker", f"{url} takes messages and hands them out")


def _names(settings: Settings) -> Names:
    """The installation's; those of nobody while there is no database to keep them."""
    if settings.namespace is None and _has_no_file(settings):
        return Names(NOBODY)
    database = Database(settings.database, pool_size=1)
    try:
        return Installation(database, settings.namespace).names()
    except SQLAlchemyError:
        return Names(NOBODY)
    finally:
        database.close()


def _has_no_file(settings: Settings) -> bool:
    return settings.database_url is None and not (settings.data_dir / "backburner.db").exists()


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
