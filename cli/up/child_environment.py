"""The environment of each process that `up` starts: every setting, but only the secrets that this process needs.

An attacker in one process, or a reader of its environment, then has no secret of another: the API cannot call the
provider, and the worker cannot call the API. Only this module reads `.env`; a process that read it would have them all.
"""

import os
import re
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Final

from dotenv import dotenv_values

from cli.up import commands
from jobs.environment import FILE, PREFIX, without_services
from jobs.settings import ENV_FILE, PROVIDER_KEY_ALIAS, WHOLE


class Part(StrEnum):
    """A process that `up` starts."""

    API = "api"
    WORKER = "worker"
    MIGRATE = "migrate"
    SIMULATOR = "simulator"
    VALKEY = "valkey"


_BOTH: Final = frozenset({Part.API, Part.WORKER})
OWNERS: Final[Mapping[str, frozenset[Part]]] = {
    "API_KEY": frozenset({Part.API}),
    "BROKER_OPTIONS": _BOTH,
    "BROKER_URL": _BOTH,
    "DATABASE_URL": _BOTH | {Part.MIGRATE},
    "ENCRYPTION_KEYS": _BOTH,
    "PROVIDER_API_KEY": frozenset({Part.WORKER}),
    "PROVIDER_BASE_URL": frozenset({Part.WORKER}),  # it may hold a password; the API gets it without
    "PROVIDER_LOGS_URL": frozenset({Part.WORKER}),
    "REDIS_PASSWORD": _BOTH,
    "REDIS_URL": _BOTH,
}
"""The processes that get a setting, for each setting that is or may hold a secret. All others go to every process."""
_FOREIGN_SECRET: Final = re.compile(
    r".*(KEY|SECRET|TOKEN|PASS|PASSWD|PASSWORD|PASSPHRASE|CREDENTIAL|DSN)S?", re.IGNORECASE
)
"""Names of variables that are not ours and look like secrets. A developer's shell has many of them."""
_DATABASE_VARIABLE: Final = re.compile(r"PG.*", re.IGNORECASE)
_BROKER_VARIABLE: Final = re.compile(r"AWS_.*", re.IGNORECASE)
_PROXY_VARIABLE: Final = re.compile(r".*_PROXY", re.IGNORECASE)


def environment_of(part: Part, settings: Mapping[str, str]) -> dict[str, str]:
    """Return the whole environment of a process.

    `settings` are named without their prefix. They take precedence over inherited variables.
    """
    environment = {**_inherited(part), **commands.environment(), WHOLE: "1"}
    for name, value in settings.items():
        if part in OWNERS.get(name, frozenset(Part)):
            environment[PREFIX + name] = value
            environment.pop(PREFIX + name + FILE, None)
    return environment


def _inherited(part: Part) -> dict[str, str]:
    variables = without_services({**_from_env_file(), **os.environ})
    return {name: value for name, value in variables.items() if value is not None and _is_allowed(part, name)}


def _from_env_file() -> dict[str, str]:
    """Return our variables in `.env` that the environment does not set."""
    ours = {
        name.upper(): value
        for name, value in dotenv_values(Path(ENV_FILE), encoding="utf-8").items()
        if value and name.upper().startswith(PREFIX)
    }
    is_set = {name.upper() for name, value in without_services(os.environ).items() if value}
    return {name: value for name, value in ours.items() if name not in is_set}


def _is_allowed(part: Part, name: str) -> bool:
    upper = name.upper()
    if upper in (PROVIDER_KEY_ALIAS, PROVIDER_KEY_ALIAS + FILE):
        return False  # the worker gets it as BACKBURNER_PROVIDER_API_KEY
    if upper.startswith(PREFIX):
        return part in OWNERS.get(upper.removeprefix(PREFIX).removesuffix(FILE), frozenset(Part))
    if _PROXY_VARIABLE.fullmatch(name):
        return part is Part.WORKER
    if _DATABASE_VARIABLE.fullmatch(name):
        return part in OWNERS["DATABASE_URL"]
    if _BROKER_VARIABLE.fullmatch(name):
        return part in OWNERS["BROKER_URL"]
    return _FOREIGN_SECRET.fullmatch(name) is None
