"""`backburner keys`: manage API keys. It works on the database directly, so it needs no key."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from time import monotonic, sleep
from typing import Final

from redis.exceptions import RedisError

from cli import render
from cli.database import open_database
from cli.errors import CommandFailed
from cli.up import valkey
from jobs.cancel_reason import AbortReason
from jobs.lifecycle import Status
from jobs.notifications import Notifier
from jobs.redis_url import connect
from jobs.settings import Settings, load_settings
from jobs.store.api_keys import ApiKey, Scope, create_key, get_key, list_keys, revoke_key
from jobs.store.database import Database, database_now
from jobs.store.installation import Installation
from jobs.store.jobs import cancel_open

OPEN: Final = (Status.QUEUED, Status.IN_PROGRESS)
"""Queued jobs are cancelled first. Else they would take the slots of cancelled calls and be billed."""
BATCH: Final = 500
"""Jobs that are cancelled in one transaction."""
MAX_WAIT_SECONDS: Final = 10.0
COMMITTING_SECONDS: Final = 1.0
"""Seconds in which a create that found its key valid commits. On SQLite no create can commit in between."""


def create(name: str, scopes: Sequence[str], *, as_json: bool) -> None:
    """Create a key with `scopes` (all of them if empty) and print it. It cannot be shown again.

    Raises:
        CommandFailed: a scope is unknown, or the database cannot be used.
    """
    wanted = [_scope(each) for each in scopes]
    with open_database(load_settings()) as database, database.begin() as tx:
        key, secret = create_key(tx, name, wanted or None, database_now(tx))
    if as_json:
        render.print_json({"id": key.id, "name": key.name, "key": secret})
        return
    render.print_text(secret)
    render.hint(f"{key.id} ({key.name}): this is the only time that the key is shown.")


def show_all(*, as_json: bool) -> None:
    """List every key, revoked ones included, without its secret.

    Raises:
        CommandFailed: the database cannot be used.
    """
    with open_database(load_settings()) as database, database.read() as tx:
        keys = list_keys(tx)
    if as_json:
        render.print_json({"object": "list", "data": [_as_json(key) for key in keys]})
        return
    rows = [
        (
            key.id,
            key.name,
            f"{key.created_at:%Y-%m-%d %H:%M}",
            "" if key.revoked_at is None else f"{key.revoked_at:%Y-%m-%d %H:%M}",
            "all" if key.scopes == frozenset(Scope) else ", ".join(sorted(key.scopes)),
        )
        for key in keys
    ]
    render.print_table(("id", "name", "created", "revoked", "scopes"), rows)


def revoke(key_id: str, *, cancel_jobs: bool, as_json: bool) -> None:
    """Revoke a key at once. Its jobs continue unless `cancel_jobs` is set.

    Raises:
        CommandFailed: there is no such key, or the database cannot be used.
    """
    settings = load_settings()
    with open_database(settings) as database, _notifier(settings, database) as notifier:
        with database.begin() as tx:
            key = _existing(key_id, revoke_key(tx, key_id, database_now(tx)))
        if notifier is not None:
            notifier.revoked(key.id)
        cancelled = _cancel_open(database, notifier, key.id) if cancel_jobs else Counter[Status]()
        if cancel_jobs and not database.is_sqlite:
            sleep(COMMITTING_SECONDS)
            cancelled += _cancel_open(database, notifier, key.id)
    if as_json:
        counted = {"cancelled": _counts(cancelled)} if cancel_jobs else {}
        render.print_json(_as_json(key) | counted)
        return
    render.print_text(f"{key.id} ({key.name}) is revoked")
    if cancel_jobs:
        render.print_text(_summary(cancelled))


def cancel_jobs(key_id: str, *, as_json: bool) -> None:
    """Cancel the queued and running jobs of a key, revoked or not.

    Raises:
        CommandFailed: there is no such key, or the database cannot be used.
    """
    settings = load_settings()
    with open_database(settings) as database, _notifier(settings, database) as notifier:
        with database.read() as tx:
            key = _existing(key_id, get_key(tx, key_id))
        cancelled = _cancel_open(database, notifier, key.id)
    if as_json:
        render.print_json({"id": key.id, "name": key.name, "cancelled": _counts(cancelled)})
    else:
        render.print_text(_summary(cancelled))


def _cancel_open(database: Database, notifier: Notifier | None, key_id: str) -> Counter[Status]:
    """Cancel every open job of the key; return how many there were by their former status.

    Repeated until none is found, as a job may change its status meanwhile. The time is limited, as a key that is still
    valid may submit more.
    """
    give_up_at = monotonic() + MAX_WAIT_SECONDS
    cancelled: Counter[Status] = Counter()
    while True:
        found = 0
        for status in OPEN:
            with database.begin() as tx:
                jobs, deliveries = cancel_open(tx, key_id, status, database_now(tx), BATCH)
            if notifier is not None:
                for job in jobs if status is Status.IN_PROGRESS else ():
                    notifier.stop(job.id, job.attempt, AbortReason.CANCELLED)
                notifier.ended([job.id for job in jobs], deliveries)
            cancelled[status] += len(jobs)
            found += len(jobs)
        if not found or (found < BATCH and monotonic() > give_up_at):
            return cancelled


@contextmanager
def _notifier(settings: Settings, database: Database) -> Iterator[Notifier | None]:
    """Yield a notifier of the other processes. Yield None without Redis: they read the rows within seconds."""
    url = valkey.last_url(settings.data_dir) if valkey.is_embedded(settings) else settings.redis
    client = connect(url or settings.redis)
    notifier = None
    with suppress(RedisError, OSError):
        client.ping()
        notifier = Notifier(client, Installation(database, settings.namespace).names)
    try:
        yield notifier
    finally:
        client.close()


def _existing(key_id: str, key: ApiKey | None) -> ApiKey:
    if key is None:
        raise CommandFailed(f"There is no key {key_id}")
    return key


def _summary(cancelled: Counter[Status]) -> str:
    queued, running = cancelled[Status.QUEUED], cancelled[Status.IN_PROGRESS]
    return f"{queued + running} cancelled: {queued} queued, {running} in progress"


def _counts(cancelled: Counter[Status]) -> dict[str, int]:
    return {status.value: cancelled[status] for status in OPEN}


def _scope(name: str) -> Scope:
    try:
        return Scope(name)
    except ValueError:
        raise CommandFailed(f"--scope {name}: expected one of {', '.join(Scope)}") from None


def _as_json(key: ApiKey) -> dict[str, object]:
    return {
        "id": key.id,
        "name": key.name,
        "scopes": sorted(key.scopes),
        "created_at": int(key.created_at.timestamp()),
        "revoked_at": None if key.revoked_at is None else int(key.revoked_at.timestamp()),
    }
