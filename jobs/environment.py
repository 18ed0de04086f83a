"""Environment variables that are ours, that only look like ours, or that a library would obey.

Kubernetes sets `BACKBURNER_PORT=tcp://10.0.0.1:8000` and the like in every container if a service is named
`backburner`. Celery prefers `CELERY_BROKER_URL` and others to its settings in code.
"""

import re
from collections.abc import Collection, Mapping, MutableMapping
from difflib import get_close_matches
from pathlib import Path
from typing import Final

from jobs.errors import SettingsError

PREFIX: Final = "BACKBURNER_"
FILE: Final = "_FILE"
"""Suffix of a variable that names the file with a secret."""
_SERVICE: Final = re.compile(
    rf"{PREFIX}([A-Z0-9_]+_)?(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
"""Source: https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables"""
_SERVICE_URL: Final = re.compile(r"(tcp|udp|sctp)://.*")
_OF_TESTS: Final = f"{PREFIX}TEST_"
_OF_CELERY: Final = "CELERY_"
_OF_CELERYS_COMMAND: Final = ("BROKER_URL", "RESULT_BACKEND", "LOADER", "CONFIG_MODULE")
"""Variables that the command `celery` reads without the prefix after importing us, and sets with it."""


def is_of_a_service(name: str, value: str | None) -> bool:
    """Return whether this is one of Kubernetes' variables for a service; `name` may be in lower case."""
    upper = name.upper()
    if _SERVICE.fullmatch(upper):
        return True
    return upper.startswith(PREFIX) and upper.endswith("_PORT") and bool(_SERVICE_URL.fullmatch(value or ""))


def without_services(variables: Mapping[str, str | None]) -> dict[str, str | None]:
    """Return the variables without those of Kubernetes' services."""
    return {name: value for name, value in variables.items() if not is_of_a_service(name, value)}


def with_secrets_of_files(variables: Mapping[str, str | None], secrets: Collection[str]) -> dict[str, str | None]:
    """Return the variables, named in lower case, with the `secrets` that are read from files.

    A newline at the end of the file is not part of the secret.

    Raises:
        SettingsError: a file cannot be read or is not text, or the secret itself is set as well.
    """
    found, wrong = dict(variables), []
    for secret in secrets:
        path = variables.get(secret.lower() + FILE.lower())
        if not path:
            continue
        if variables.get(secret.lower()):
            wrong.append(f"  {secret}{FILE}: {secret} is set as well; set one of them")
            continue
        try:
            value = Path(path).read_text(encoding="utf-8-sig").rstrip("\r\n")
        except (OSError, ValueError) as error:  # ValueError: the file is not text
            reason = (error.strerror if isinstance(error, OSError) else None) or "it is not text"
            wrong.append(f"  {secret}{FILE}: the file cannot be read: {reason}")
            continue
        if not value.strip():
            wrong.append(f"  {secret}{FILE}: the file is empty")
        found[secret.lower()] = value
    if wrong:
        raise SettingsError("Settings are wrong:\n" + "\n".join(wrong))
    return found


def remove_celery_variables(environment: MutableMapping[str, str]) -> None:
    """Remove variables that Celery would read as its own settings, so that only our settings count."""
    for name in [each for each in environment if each.startswith(_OF_CELERY) or each in _OF_CELERYS_COMMAND]:
        del environment[name]


def notices(variables: Mapping[str, str | None], known: Collection[str]) -> list[str]:
    """Return a sentence for each variable that looks like ours but is ignored.

    `known` are the names of our variables.
    """
    found, ours = [], {each.removeprefix(PREFIX): each for each in known}
    services = sorted(name for name, value in variables.items() if is_of_a_service(name, value))
    if services:
        found.append(f"{_listed(services)}: Kubernetes' variables for a service of this name; ignored")
    celerys = sorted(name for name in variables if name.startswith(_OF_CELERY))
    if celerys:
        found.append(f"{_listed(celerys)}: Celery is configured by {PREFIX} variables alone; ignored")
    for name in sorted(variables):
        upper = name.upper()
        is_ours = not upper.startswith(PREFIX) or upper in known or upper.startswith(_OF_TESTS)
        if is_ours or name in services:
            continue
        near = get_close_matches(upper.removeprefix(PREFIX), ours, 1)
        meant = f" (did you mean {ours[near[0]]}?)" if near else ""
        found.append(f"{name}: no setting of this release; ignored{meant}")
    return found


def _listed(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 3 else f"{names[0]} and {len(names) - 1} more"
