"""Which variables of the environment are ours, and which only look so or would be obeyed by a library beneath.

Kubernetes puts `BACKBURNER_PORT=tcp://10.0.0.1:8000` and the like into every container once a service is named
`backburner`. Celery obeys `CELERY_BROKER_URL` and others before what it is told in code, whoever set them.
"""

import re
from collections.abc import Collection, Mapping, MutableMapping
from difflib import get_close_matches
from pathlib import Path
from typing import Final

from jobs.errors import SettingsError

PREFIX: Final = "BACKBURNER_"
FILE: Final = "_FILE"
"""What the name of a variable ends in that names the file in which a secret stands."""
_SERVICE: Final = re.compile(
    rf"{PREFIX}([A-Z0-9_]+_)?(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)"
)
"""Source: https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables"""
_SERVICE_URL: Final = re.compile(r"(tcp|udp|sctp)://.*")
_OF_TESTS: Final = f"{PREFIX}TEST_"
_OF_CELERY: Final = "CELERY_"
_OF_CELERYS_COMMAND: Final = ("BROKER_URL", "RESULT_BACKEND", "LOADER", "CONFIG_MODULE")
"""What the command `celery` reads without the prefix, after it has imported us, and passes on with it."""


def is_of_a_service(name: str, value: str | None) -> bool:
    """Whether this is one of Kubernetes' variables for a service; `name` may be in small letters."""
    upper = name.upper()
    if _SERVICE.fullmatch(upper):
        return True
    return upper.startswith(PREFIX) and upper.endswith("_PORT") and bool(_SERVICE_URL.fullmatch(value or ""))


def without_services(variables: Mapping[str, str | None]) -> dict[str, str | None]:
    """The variables but for those of Kubernetes' services."""
    return {name: value for name, value in variables.items() if not is_of_a_service(name, value)}


def with_secrets_of_files(variables: Mapping[str, str | None], secrets: Collection[str]) -> dict[str, str | None]:
    """The variables, named in small letters, and those of `secrets` whose value stands in the file that another names.

    A newline at the end of the file is not part of the secret.

    Raises:
        SettingsError: a file cannot be read or holds no text, or the secret itself is set as well.
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
        except (OSError, ValueError) as error:  # of which the latter is a file that holds no text
            reason = (error.strerror if isinstance(error, OSError) else None) or "it holds no text"
            wrong.append(f"  {secret}{FILE}: the file cannot be read: {reason}")
            continue
        if not value.strip():
            wrong.append(f"  {secret}{FILE}: the file is empty")
        found[secret.lower()] = value
    if wrong:
        raise SettingsError("Settings are wrong:\n" + "\n".join(wrong))
    return found


def remove_celery_variables(environment: MutableMapping[str, str]) -> None:
    """Remove what Celery would take for its own settings: what is ours is said by our settings alone."""
    for name in [each for each in environment if each.startswith(_OF_CELERY) or each in _OF_CELERYS_COMMAND]:
        del environment[name]


def notices(variables: Mapping[str, str | None], known: Collection[str]) -> list[str]:
    """What of the environment is ignored though it looks as if it were meant for us, a sentence each.

    `known` are the names of the variables that are ours.
    """
    found, ours = [], {each.removeprefix(PREFIX): each for each in known}
    services = sorted(name for name, value in variables.items() if is_of_a_service(name, value))
    if services:
        found.append(f"{_listed(services)}: Kubernetes' variables for a service of this name; ignored")
    celerys = sorted(name for name in variables if name.startswith(_OF_CELERY))
    if celerys:
        found.append(f"{_listed(celerys)}: Celery is told by {PREFIX} variables alone; ignored")
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
