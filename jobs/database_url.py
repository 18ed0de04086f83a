"""The parts of a database URL that are handled here rather than by the driver."""

from collections.abc import Sequence
from typing import Final
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from pydantic import SecretStr
from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError

PREPARE_THRESHOLD: Final = 2
"""Use of a statement on a connection at which it is prepared."""
THRESHOLD_IN_URL: Final = "prepare_threshold"
NEVER: Final = "none"
WRITABLE: Final = ("target_session_attrs", "read-write")
PORT: Final = "5432"
HOSTS_WANTED: Final = (
    "expected a port for each host, such as postgresql://user:password@/name?host=one,two&port=5432,5433"
)
OTHER_DRIVERS: Final = {
    "postgresql": ("asyncpg", "psycopg", "psycopg2", "psycopg2cffi", "psycopg_async", "pg8000"),
    "sqlite": ("aiosqlite", "pysqlite"),
}
"""Drivers that a URL may name. Whichever it names, psycopg 3 and Python's own sqlite3 are used."""
OTHERS_OPTIONS: Final = (
    *("connection_limit", "pgbouncer", "pool_timeout", "prepared_statement_cache_size", "schema", "socket_timeout"),
    *("sslaccept", "statement_cache_size"),
)
"""Options of other clients such as Prisma. Any other unknown option is not shown: it may be part of a password."""
SSL_MODES: Final = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
AT: Final = "the part before the last @ holds another @; in a password @ : / ? # % are %40 %3A %2F %3F %23 %25"


def prepare_threshold(url: URL) -> int | None:
    """Return the `prepare_threshold` of a URL, None for "none"; the default if it has none.

    Raises:
        ValueError: it is neither a whole number nor "none".
    """
    given = url.query.get(THRESHOLD_IN_URL)
    if given is None:
        return PREPARE_THRESHOLD
    if isinstance(given, str) and given.lower() == NEVER:
        return None
    if isinstance(given, str) and given.isascii() and given.isdecimal():
        return max(1, int(given))  # at the first use psycopg would prepare several statements at once, which fails
    raise ValueError(f"expected a whole number or {NEVER} for {THRESHOLD_IN_URL}")


def checked_database_url(value: SecretStr | None) -> SecretStr | None:
    """Return the database's URL, converted if it has the form of another client.

    Raises:
        ValueError: it is not of SQLite or PostgreSQL, or has an option that is not supported.
    """
    if value is None:
        return None
    text = value.get_secret_value().strip()
    scheme, mark, rest = text.partition("://")
    backend, _, driver = scheme.lower().partition("+")
    backend = "postgresql" if backend == "postgres" else backend
    if backend == "postgresql":
        text = _with_hosts_apart(text)
        rest = text.partition("://")[2]
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):  # ValueError would show the text in place of the port
        raise ValueError("expected a SQLAlchemy URL such as postgresql://user:password@host/name") from None
    if not mark or backend not in OTHER_DRIVERS:
        raise ValueError("expected sqlite or postgresql")
    if driver and driver not in OTHER_DRIVERS[backend]:
        raise ValueError(f"the driver that it names is not known here; expected {backend}://")
    if backend == "postgresql":
        _check_options(url)
    prepare_threshold(url)
    return SecretStr(f"{backend}{mark}{rest}")


def _check_options(url: URL) -> None:
    """Check that PostgreSQL's client knows the options of the URL; else it would refuse each connection.

    Raises:
        ValueError: it does not know one.
    """
    from psycopg.pq import Conninfo  # noqa: PLC0415  # not needed with SQLite

    if "@" in (url.host or ""):  # an error that names the host would show the end of the password
        raise ValueError(AT)
    if "ssl" in url.query:
        raise ValueError("ssl= is another driver's option; expected sslmode=require, or verify-full with sslrootcert=")
    known = {each.keyword.decode() for each in Conninfo.get_defaults()} | {THRESHOLD_IN_URL}
    unknown = sorted(each for each in url.query if each not in known)
    if unknown:
        named = f"{unknown[0]}= is another client's option" if unknown[0] in OTHERS_OPTIONS else "an option is unknown"
        raise ValueError(f"{named} after the ?; expected those of PostgreSQL's own client, such as sslmode=require")
    if url.query.get("sslmode", SSL_MODES[0]) not in SSL_MODES:
        raise ValueError(f"expected one of {', '.join(SSL_MODES)} for sslmode")


def _with_hosts_apart(text: str) -> str:
    """Return the URL of one of several servers as `?host=one,two&port=1,2`; any other is unchanged.

    SQLAlchemy does not accept libpq's own form, `//one:1,two:2/name`, and reads `?host=one:1,two:2` as four names. The
    server that takes writes is chosen unless the URL asks for another.

    Raises:
        ValueError: it has neither one port nor one for each host.
    """
    try:
        parts = urlsplit(text)
    except ValueError:  # `make_url` has a better message
        return text
    credentials, at, servers = parts.netloc.rpartition("@")
    query = parse_qsl(parts.query, keep_blank_values=True)
    named = servers.split(",") if "," in servers else _of_query(query, "host")
    if len(named) < 2:
        return text
    hosts, beside = zip(*map(_host_and_port, named), strict=True)
    ports = _of_query(query, "port") or beside
    if len(ports) == 1:
        ports *= len(hosts)
    if len(ports) != len(hosts) or not all(each.isdecimal() for each in ports):
        raise ValueError(HOSTS_WANTED)
    asked = [each for each in query if each[0] not in ("host", "port")]
    if WRITABLE[0] not in dict(asked):
        asked.append(WRITABLE)
    asked = [("host", ",".join(hosts)), ("port", ",".join(ports)), *asked]
    return parts._replace(
        netloc=credentials + at, query=urlencode(asked, safe=",:/", quote_via=quote), fragment=""
    ).geturl()


def _of_query(query: Sequence[tuple[str, str]], name: str) -> list[str]:
    return [each for key, value in query if key == name for each in value.split(",")]


def _host_and_port(text: str) -> tuple[str, str]:
    """Return the host (an IPv6 address without brackets) and the port."""
    host, _, port = text.rpartition(":")
    if text.endswith("]") or not host or (":" in host and not host.endswith("]")):
        host, port = text, ""
    return host.removeprefix("[").removesuffix("]"), port or PORT
