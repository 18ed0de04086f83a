"""Checks of single settings. A message says what was expected and never shows the value, which may be a secret."""

import base64
import json
import re
from importlib.util import find_spec
from ipaddress import ip_address, ip_network
from typing import Final

from pydantic import BeforeValidator, SecretStr

from jobs.amqp_url import check_amqps_url, is_amqps
from jobs.redis_url import check_url

ANY_ORIGIN: Final = "*"
ORIGIN: Final = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<host>\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:(?P<port>[0-9]{1,5}))?"
)
SHORTEST_API_KEY: Final = 16
"""Characters. A shorter key could be guessed. `keys create` and `up` generate keys of 46."""
IMPLIED_PORTS: Final = {"http": 80, "https": 443}
REDIS_SCHEMES: Final = frozenset({"redis", "rediss", "unix", "sentinel"})
BROKER_SCHEMES: Final = frozenset(
    {
        *("amqp", "amqps", "azureservicebus", "azurestoragequeues", "confluentkafka", "consul", "etcd", "filesystem"),
        *("gcpubsub", "kafka", "librabbitmq", "mongodb", "pgmq", "pyamqp", "pyro", "qpid", "redis", "rediss"),
        *("sentinel", "slmq", "sqla", "sqlalchemy", "sqs", "unix", "zookeeper"),
    }
)
"""All that kombu knows, except `memory`, which processes cannot share."""
BROKER_LIBRARIES: Final = {
    "azureservicebus": ("azure.servicebus", "kombu[azureservicebus]"),
    "azurestoragequeues": ("azure.storage.queue", "kombu[azurestoragequeues]"),
    "confluentkafka": ("confluent_kafka", "kombu[confluentkafka]"),
    "consul": ("consul", "kombu[consul]"),
    "etcd": ("etcd", "python-etcd"),
    "gcpubsub": ("google.cloud.pubsub_v1", "kombu[gcpubsub]"),
    "kafka": ("confluent_kafka", "kombu[confluentkafka]"),
    "librabbitmq": ("librabbitmq", "kombu[librabbitmq]"),
    "mongodb": ("pymongo", "kombu[mongodb]"),
    "pgmq": ("pgmq", "kombu[pgmq]"),
    "pyro": ("Pyro4", "kombu[pyro]"),
    "qpid": ("qpid", "kombu[qpid]"),
    "slmq": ("softlayer_messaging", "kombu[slmq]"),
    "sqs": ("boto3", "kombu[sqs]"),
    "zookeeper": ("kazoo", "kombu[zookeeper]"),
}
"""Libraries of brokers that we do not install: the imported module and the package to install."""


def without_newline(value: SecretStr | None) -> SecretStr | None:
    """Return the secret without the newline at the end of a file."""
    return value if value is None else SecretStr(value.get_secret_value().rstrip("\r\n"))


def header_key(value: SecretStr | None) -> SecretStr | None:
    """Return the key without blanks around it.

    Raises:
        ValueError: it holds a blank or a character that an HTTP header cannot hold.
    """
    if value is None:
        return None
    key = value.get_secret_value().strip()
    if not key:
        return None
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise ValueError("expected a key without blanks, line ends or letters beyond ASCII")
    return SecretStr(key)


def split(value: object) -> object:
    """Return the parts of a text with commas; any other value unchanged."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def networks(value: object) -> object:
    """Return the parts as networks.

    Raises:
        ValueError: one is not a network.
    """
    try:
        return [ip_network(str(part)) for part in value] if isinstance(value, list) else value
    except ValueError:
        raise ValueError("expected comma-separated networks such as 127.0.0.0/8,10.1.0.0/16") from None


def fernet_keys(keys: list[SecretStr]) -> list[SecretStr]:
    """Return the keys.

    Raises:
        ValueError: one is not a Fernet key.
    """
    for key in keys:
        try:
            usable = len(base64.b64decode(key.get_secret_value(), altchars="-_", validate=True)) == 32
        except ValueError:
            usable = False
        if not usable:
            raise ValueError("expected comma-separated Fernet keys: 32 random bytes each, as URL-safe base64")
    return keys


def long_enough(key: SecretStr | None) -> SecretStr | None:
    """Return the API key.

    Raises:
        ValueError: it is too short.
    """
    if key is not None and len(key.get_secret_value()) < SHORTEST_API_KEY:
        raise ValueError(f"expected at least {SHORTEST_API_KEY} characters, such as: openssl rand -hex 32")
    return key


def origins(given: list[str]) -> list[str]:
    """Return the origins as browsers send them.

    Raises:
        ValueError: one is not an origin.
    """
    return given if given == [ANY_ORIGIN] else [_origin(each) for each in given]


def _origin(text: str) -> str:
    """Return an origin as browsers send it: in lower case, without the default port of its scheme."""
    found = ORIGIN.fullmatch(text.lower())
    if found is None or int(found["port"] or 0) > 65535:
        raise ValueError(f"expected {ANY_ORIGIN} alone or comma-separated origins such as https://app.example.com")
    port = found["port"]
    is_implied = port is None or int(port) == IMPLIED_PORTS.get(found["scheme"])
    return f"{found['scheme']}://{found['host']}" + ("" if is_implied else f":{int(port)}")


CommaSeparated: Final = BeforeValidator(split)


def checked_redis_url(value: SecretStr) -> SecretStr:
    """Return the URL of Redis.

    Raises:
        ValueError: its scheme is not supported.
    """
    value = _stripped(value)
    scheme = _scheme(value)
    if scheme not in REDIS_SCHEMES:
        raise ValueError("expected a URL that begins with redis:// (Valkey's too), rediss://, unix:// or sentinel://")
    if scheme != "sentinel":
        check_url(value.get_secret_value())
    return value


def checked_broker_url(value: SecretStr | None) -> SecretStr | None:
    """Return the URL of the broker.

    Raises:
        ValueError: Celery does not support it, processes cannot share it, or its library is missing.
    """
    if value is None:
        return None
    value = _stripped(value)
    if _scheme(value).partition("+")[0] not in BROKER_SCHEMES:
        raise ValueError("expected the URL of a broker that Celery supports, such as redis://, sentinel:// or amqp://")
    _check_library(_scheme(value).partition("+")[0])
    if _scheme(value) in ("redis", "rediss", "unix") and ";" not in value.get_secret_value():
        check_url(value.get_secret_value())
    if is_amqps(value.get_secret_value()):
        check_amqps_url(value.get_secret_value())
    return value


def _check_library(scheme: str) -> None:
    if scheme not in BROKER_LIBRARIES:
        return
    module, package = BROKER_LIBRARIES[scheme]
    try:
        is_there = find_spec(module) is not None
    except ModuleNotFoundError:  # its parent package is missing
        is_there = False
    if not is_there:
        raise ValueError(f"the library for {scheme}:// is not installed: pip install '{package}'")


def _stripped(url: SecretStr) -> SecretStr:
    scheme, mark, rest = url.get_secret_value().strip().partition("://")
    return SecretStr(f"{scheme.lower() if mark else scheme}{mark}{rest}")


def _scheme(url: SecretStr) -> str:
    scheme, found, _ = url.get_secret_value().partition("://")
    if "cluster" in scheme.lower():
        raise ValueError("Redis Cluster cannot keep the queue; name one server, or Sentinels (sentinel://)")
    return scheme.lower() if found else ""


def json_object(value: SecretStr | None) -> SecretStr | None:
    """Return the JSON.

    Raises:
        ValueError: it is not a JSON object.
    """
    try:
        is_object = value is None or isinstance(json.loads(value.get_secret_value()), dict)
    except ValueError:
        is_object = False
    if not is_object:
        raise ValueError('expected a JSON object such as {"master_name": "mymaster"}')
    return value


def is_loopback(host: str) -> bool:
    """Return whether a host of a URL is this machine."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
