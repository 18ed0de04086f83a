"""TLS options of a broker behind `amqps://`.

By default py-amqp verifies a certificate but not its host name, so that of any other host would pass. The options in
the URL are those of `rediss://`; kombu would pass them on under names that py-amqp does not know.
"""

import ssl
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit

from jobs.redis_url import check_files, requirement, wants

SCHEME: Final = "amqps://"
_NAMES: Final = {"ssl_ca_certs": "ca_certs", "ssl_certfile": "certfile", "ssl_keyfile": "keyfile"}
_CHECKS: Final = ("ssl_cert_reqs", "ssl_check_hostname")
_REQUIREMENTS: Final = {"required": ssl.CERT_REQUIRED, "optional": ssl.CERT_OPTIONAL, "none": ssl.CERT_NONE}


def is_amqps(url: str) -> bool:
    """Return whether the URL is of such a broker."""
    return url.startswith(SCHEME) and ";" not in url


def check_amqps_url(url: str) -> None:
    """Check the TLS options of the URL.

    Raises:
        ValueError: TLS cannot be used as they say; the message says why.
    """
    query = dict(parse_qsl(urlsplit(url).query))
    unknown = [each for each in query if each.startswith("ssl") and each not in (*_NAMES, *_CHECKS)]
    if unknown:
        raise ValueError(f"{unknown[0]} is not an option there; expected {', '.join((*_NAMES, *_CHECKS))}")
    check_files(query)
    tls_of_amqps(url)


def tls_of_amqps(url: str) -> dict[str, Any]:
    """Return the TLS options in py-amqp's form."""
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    required = _REQUIREMENTS[requirement(query.get("ssl_cert_reqs", "required"))]
    is_checked = required is not ssl.CERT_NONE and wants(query.get("ssl_check_hostname", "true"))
    given = {ours: query[theirs] for theirs, ours in _NAMES.items() if theirs in query}
    host = {"server_hostname": parts.hostname} if is_checked else {}
    return {"cert_reqs": required, **host, **given}


def without_tls_options(url: str) -> str:
    """Return the URL without its TLS options, as kombu takes it."""
    parts = urlsplit(url)
    kept = [each for each in parse_qsl(parts.query) if each[0] not in (*_NAMES, *_CHECKS)]
    return parts._replace(query=urlencode(kept)).geturl()
