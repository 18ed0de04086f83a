"""What a database's URL says to us rather than to the driver."""

from typing import Final

from pydantic import SecretStr
from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

PREPARE_THRESHOLD: Final = 2
"""At its second use on a connection, a statement is prepared."""
THRESHOLD_IN_URL: Final = "prepare_threshold"
NEVER: Final = "none"
OTHER_DRIVERS: Final = {
    "postgresql": ("asyncpg", "psycopg", "psycopg2", "psycopg2cffi", "psycopg_async", "pg8000"),
    "sqlite": ("aiosqlite", "pysqlite"),
}
"""Drivers that others name in a database's URL; ours are psycopg 3 and Python's own sqlite3, whichever it names."""


def prepare_threshold(url: URL) -> int | None:
    """The `prepare_threshold` in a URL, of which "none" is None; ours where it has none.

    Raises:
        ValueError: it is neither a whole number nor "none".
    """
    given = url.query.get(THRESHOLD_IN_URL)
    if given is None:
        return PREPARE_THRESHOLD
    if isinstance(given, str) and given.lower() == NEVER:
        return None
    if isinstance(given, str) and given.isascii() and given.isdecimal():
        return int(given)
    raise ValueError(f"expected a whole number or {NEVER} for {THRESHOLD_IN_URL}")


def checked_database_url(value: SecretStr | None) -> SecretStr | None:
    """Return the database's URL, in our own form where it names it in another's.

    Raises:
        ValueError: it is none of SQLite or PostgreSQL, or has an option that cannot be heeded.
    """
    if value is None:
        return None
    text = value.get_secret_value().strip()
    scheme, mark, rest = text.partition("://")
    backend, _, driver = scheme.lower().partition("+")
    backend = "postgresql" if backend == "postgres" else backend
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):  # of which the latter would repeat what stands where the port should
        raise ValueError("expected a SQLAlchemy URL such as postgresql://user:password@host/name") from None
    if not mark or backend not in OTHER_DRIVERS:
        raise ValueError("expected sqlite or postgresql")
    if driver and driver not in OTHER_DRIVERS[backend]:
        raise ValueError(f"the driver that it names is not known here; expected {backend}://")
    if backend == "postgresql" and "ssl" in url.query:
        raise ValueError("ssl= is another driver's option; expected sslmode=require, or verify-full with sslrootcert=")
    prepare_threshold(url)
    return SecretStr(f"{backend}{mark}{rest}")
