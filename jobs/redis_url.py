"""URLs of Redis: one server, or the master named by Sentinels; for redis-py, and for kombu beneath Celery.

Sentinels are written `sentinel://user:password@host1:26379;host2/0?master_name=mymaster`: user, password and database
number are the master's. The Sentinels' own password, if they have one, is `sentinel_password` (`sentinel_username`).
`ssl=true` uses TLS for both, with the options in `TLS_OPTIONS`, as for `rediss://`. Kombu's form, in which each
Sentinel has its own scheme, is read as well.

With `rediss://` both kombu and redis-py verify the server's certificate, unless `ssl_cert_reqs=none` is in the URL.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

import redis
import redis.asyncio
from redis.asyncio.sentinel import Sentinel as AsyncSentinel
from redis.exceptions import RedisError
from redis.sentinel import Sentinel

SENTINEL: Final = "sentinel://"
SOCKET: Final = "unix://"
SENTINEL_PORT: Final = 26379
CONNECT_SECONDS: Final = 2
ANSWER_SECONDS: Final = 5
SENTINELS_WANTED: Final = "expected a URL such as sentinel://host1:26379;host2:26379/0?master_name=mymaster"
MASTER_NAME: Final = "master_name"
TLS: Final = "ssl"
TLS_OPTIONS: Final = ("ssl_ca_certs", "ssl_cert_reqs", "ssl_certfile", "ssl_check_hostname", "ssl_keyfile")
_FILES: Final = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_REQUIREMENTS: Final = ("none", "optional", "required")
URL_WANTED: Final = (
    "expected a URL such as redis://user:password@host:6379/0; in its password, @ : / ? # % are written as"
    " %40 %3A %2F %3F %23 %25, or BACKBURNER_REDIS_PASSWORD holds it as it is"
)
_NO: Final = ("", "0", "false", "no")
_OWN: Final = {"sentinel_username": "username", "sentinel_password": "password"}


@dataclass(frozen=True)
class Sentinels:
    """The Sentinels, the name of their master, and the credentials.

    `own` holds the credentials for the Sentinels, `tls` the TLS options; it is empty without TLS.
    """

    hosts: tuple[tuple[str, int], ...]
    master: str
    database: int
    username: str | None
    password: str | None
    own: Mapping[str, str]
    tls: Mapping[str, str | bool]

    @classmethod
    def from_url(cls, url: str) -> "Sentinels":
        """Read the URL.

        Raises:
            ValueError: it names no Sentinel or no master, a port or database number is not a number, or an option is
                unknown, which may have been meant to encrypt the connection.
        """
        parts = urlsplit(_in_one(url))
        credentials, _, hosts = parts.netloc.rpartition("@")
        username, _, password = credentials.partition(":")
        query = dict(parse_qsl(parts.query))
        master = query.get(MASTER_NAME)
        named = tuple(_host_and_port(each) for each in hosts.split(";") if each)
        is_known = query.keys() <= {MASTER_NAME, TLS, *TLS_OPTIONS, *_OWN}
        if not named or not master or not is_known:
            raise ValueError(SENTINELS_WANTED)
        own = {ours: query[theirs] for theirs, ours in _OWN.items() if theirs in query}
        database = int(parts.path.strip("/") or 0)
        return cls(named, master, database, unquote(username) or None, unquote(password) or None, own, _tls(query))

    def to_kombu(self) -> str:
        """Return the URL in kombu's form."""
        user = quote(self.username or "", safe="")
        password = f":{quote(self.password, safe='')}" if self.password is not None else ""
        credentials = f"{user}{password}@" if user or password else ""
        return ";".join(f"{SENTINEL}{credentials}{host}:{port}/{self.database}" for host, port in self.hosts)

    @property
    def sign_in(self) -> dict[str, Any]:
        """redis-py's options for connections to the Sentinels."""
        return {"socket_connect_timeout": CONNECT_SECONDS, "socket_timeout": CONNECT_SECONDS, **self.own, **self.ssl}

    @property
    def ssl(self) -> dict[str, Any]:
        """redis-py's options for TLS."""
        return {TLS: True, **self.tls} if self.tls else {}

    @property
    def kombu_options(self) -> dict[str, Any]:
        """The transport options for kombu."""
        return {MASTER_NAME: self.master, "sentinel_kwargs": self.sign_in}


def is_sentinel(url: str) -> bool:
    """Return whether the URL names Sentinels."""
    return url.startswith(SENTINEL)


def with_master(url: str, options: Mapping[str, Any]) -> str:
    """Return the Sentinels' URL with kombu's options from `BACKBURNER_BROKER_OPTIONS`; any other URL unchanged."""
    if not is_sentinel(url):
        return url
    parts = urlsplit(_in_one(url))
    given = options.get("sentinel_kwargs")
    own = given if isinstance(given, Mapping) else {}
    added = {theirs: str(own[ours]) for theirs, ours in _OWN.items() if ours in own}
    if MASTER_NAME in options:
        added[MASTER_NAME] = str(options[MASTER_NAME])
    query = {**added, **dict(parse_qsl(parts.query))}
    return parts._replace(query=urlencode(query)).geturl()


def check_url(url: str) -> None:
    """Check that redis-py and kombu can use the URL of a Redis server.

    Raises:
        ValueError: they cannot; the message says why and shows no part of the URL.
    """
    scheme = urlsplit(url).scheme
    try:
        parts = urlsplit(url)
        whole = bool(parts.hostname or scheme == "unix") and parts.port != 0 and not parts.fragment
    except ValueError:  # not a valid port; the error would show it
        raise ValueError(URL_WANTED) from None
    database = parts.path.strip("/")
    if not whole or (scheme != "unix" and database and not database.isdecimal()):
        raise ValueError(URL_WANTED)
    query = dict(parse_qsl(parts.query))
    if scheme != "rediss" and (tls := sorted(name for name in query if name.startswith(TLS))):
        raise ValueError(f"{tls[0]} has no effect there; expected a URL that begins with rediss://")
    check_files(query)
    _tls(query)
    try:
        pool = redis.Redis.from_url(_for_redis_py(url)).connection_pool
        pool.connection_class(**pool.connection_kwargs)
    except (TypeError, ValueError, RedisError):
        raise ValueError(
            "it holds an option that Redis' client does not know, or a value that it does not accept"
        ) from None


def check_files(query: Mapping[str, str]) -> None:
    """Check that the files for TLS are readable.

    Raises:
        ValueError: one cannot be read.
    """
    for name in _FILES:
        if name in query and not os.access(query[name], os.R_OK):
            raise ValueError(f"the file that {name} names cannot be read")


def wants(text: str) -> bool:
    """Return whether an option that is on or off is on."""
    return text.lower() not in _NO


def tls_of(url: str) -> dict[str, str | bool]:
    """Return kombu's TLS options for the Redis at `url`; empty without TLS."""
    if is_sentinel(url):
        return dict(Sentinels.from_url(url).tls)
    parts = urlsplit(url)
    return _tls({TLS: "true", **dict(parse_qsl(parts.query))}) if parts.scheme == "rediss" else {}


def _for_redis_py(url: str) -> str:
    """Return the URL with its TLS options in redis-py's form; those of OpenSSL are read as well."""
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    if parts.scheme != "rediss" or "ssl_cert_reqs" not in query:
        return url
    return parts._replace(query=urlencode({**query, "ssl_cert_reqs": requirement(query["ssl_cert_reqs"])})).geturl()


def requirement(text: str) -> str:
    """Return redis-py's name for the verification of a certificate.

    Raises:
        ValueError: the name is unknown.
    """
    found = text.lower().removeprefix("cert_")
    if found not in _REQUIREMENTS:
        raise ValueError("expected ssl_cert_reqs=required, optional or none")
    return found


def for_kombu(url: str) -> str:
    """Return the URL for Celery. That of any other broker is unchanged."""
    if is_sentinel(url):
        return Sentinels.from_url(url).to_kombu()
    if url.startswith(("redis://", "rediss://")) and ";" not in url:
        parts = urlsplit(url)  # kombu knows no option of redis-py, and gets those for TLS from `tls_of`
        database = dict(parse_qsl(parts.query)).get("db") or parts.path.strip("/") or "0"
        return parts._replace(path=f"/{database}", query="").geturl()
    if url.startswith(SOCKET):
        path, mark, query = url.removeprefix(SOCKET).partition("?")
        return f"redis+socket://{path}{mark}{query.replace('db=', 'virtual_host=')}"
    return url


def connect(url: str) -> "redis.Redis":
    """Return a synchronous client, which connects at first use."""
    options: dict[str, Any] = {
        "socket_connect_timeout": CONNECT_SECONDS,
        "socket_timeout": ANSWER_SECONDS,
        "health_check_interval": 25,
        "socket_keepalive": True,
    }
    if not is_sentinel(url):
        return redis.Redis.from_url(_for_redis_py(url), **options)
    known = Sentinels.from_url(url)
    sentinel: Any = Sentinel(known.hosts, sentinel_kwargs=known.sign_in)  # type: ignore[no-untyped-call]  # the client's own
    client: redis.Redis = sentinel.master_for(known.master, **_signed_in(known), **options)
    return client


def connect_async(url: str) -> "redis.asyncio.Redis":
    """Return a client for an event loop, which connects at first use."""
    options: dict[str, Any] = {
        "socket_connect_timeout": CONNECT_SECONDS,
        "health_check_interval": 25,
        "socket_keepalive": True,
    }
    if not is_sentinel(url):
        return redis.asyncio.Redis.from_url(_for_redis_py(url), **options)
    known = Sentinels.from_url(url)
    sentinel: Any = AsyncSentinel(known.hosts, sentinel_kwargs=known.sign_in)  # type: ignore[no-untyped-call]  # likewise
    client: redis.asyncio.Redis = sentinel.master_for(known.master, **_signed_in(known), **options)
    return client


def _signed_in(known: Sentinels) -> dict[str, Any]:
    return {"db": known.database, "username": known.username, "password": known.password, **known.ssl}


def _tls(query: Mapping[str, str]) -> dict[str, str | bool]:
    """Return the TLS options. Any TLS option turns TLS on."""
    given: dict[str, str | bool] = {name: query[name] for name in TLS_OPTIONS if name in query}
    if query.get(TLS, "").lower() in _NO and not given:
        return {}
    if "ssl_cert_reqs" in query:
        given["ssl_cert_reqs"] = requirement(query["ssl_cert_reqs"])
    if "ssl_check_hostname" in query:
        given["ssl_check_hostname"] = wants(query["ssl_check_hostname"])
    return {"ssl_cert_reqs": "required", **given}


def _in_one(url: str) -> str:
    return SENTINEL + url.replace(SENTINEL, "")


def _host_and_port(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    return (host, int(port)) if colon and not text.endswith("]") else (text, SENTINEL_PORT)
