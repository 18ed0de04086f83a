"""`backburner keys`: the operator's tool for API keys. It works on the database itself, so it needs no key."""

from collections.abc import Sequence

from cli import render
from cli.database import open_database
from cli.failure import CommandFailed
from jobs.settings import load_settings
from jobs.store.database import database_now
from jobs.store.keys import ApiKey, Scope, create_key, list_keys, revoke_key


def create(name: str, scopes: Sequence[str], *, as_json: bool) -> None:
    """Make a key with `scopes`, all when empty, and show it this once.

    Raises:
        CommandFailed: a scope is unknown, or the database is not to be had.
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
        CommandFailed: the database is not to be had.
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


def revoke(key_id: str, *, as_json: bool) -> None:
    """End a key at once; its jobs go on.

    Raises:
        CommandFailed: there is no such key, or the database is not to be had.
    """
    with open_database(load_settings()) as database, database.begin() as tx:
        key = revoke_key(tx, key_id, database_now(tx))
    if key is None:
        raise CommandFailed(f"There is no key {key_id}")
    if as_json:
        render.print_json(_as_json(key))
    else:
        render.print_text(f"{key.id} ({key.name}) is revoked")


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
