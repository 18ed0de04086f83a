"""How TLS is spoken with a broker behind `amqps://`.

py-amqp verifies a certificate, but by default not that it is the host's, so that any other host's would do. The options
in the URL are those of `rediss://`; kombu would hand them on under names that py-amqp does not know.
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
    """Whether the URL is of one such broker."""
    return url.startswith(SCHEME) and ";" not in url


def check_amqps_url(url: str) -> None:
    """Look whether TLS can be spoken as the URL says.

    Raises:
        ValueError: it cannot, and why.
    """
    query = dict(parse_qsl(urlsplit(url).query))
    unknown = [each for each in query if each.startswith("ssl") and each not in (*_NAMES, *_CHECKS)]
    if unknown:
        raise ValueError(f"{unknown[0]} is no option there; expected {', '.join((*_NAMES, *_CHECKS))}")
    check_files(query)
    tls_of_amqps(url)


def tls_of_amqps(url: str) -> dict[str, Any]:
    """What py-amqp takes."""
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    required = _REQUIREMENTS[requirement(query.get("ssl_cert_reqs", "required"))]
    is_checked = required is not ssl.CERT_NONE and wants(query.get("ssl_check_hostname", "true"))
    given = {ours: query[theirs] for theirs, ours in _NAMES.items() if theirs in query}
    host = {"server_hostname": parts.hostname} if is_checked else {}
    return {"cert_reqs": required, **host, **given}


def without_tls_options(url: str) -> str:
    """The URL as kombu takes it beside them."""
    parts = urlsplit(url)
    kept = [each for each in parse_qsl(parts.query) if each[0] not in (*_NAMES, *_CHECKS)]
    return parts._replace(query=urlencode(kept)).geturl()
