"""What each process of `up` is told: every setting, but of the secrets only those that it works with.

Whoever gets into one process, or reads its environment, then has no more than that one needs: the API cannot call the
provider, and the worker cannot speak to the API. `.env` is read here alone, as a process that read it would hold all.
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
    "PROVIDER_BASE_URL": frozenset({Part.WORKER}),  # it may hold a password; others are told it without
    "PROVIDER_LOGS_URL": frozenset({Part.WORKER}),
    "REDIS_PASSWORD": _BOTH,
    "REDIS_URL": _BOTH,
}
"""Whose a setting is that is a secret, or may hold one."""
_OTHERS: Final = re.compile(r".*(KEY|SECRET|TOKEN|PASS|PASSWD|PASSWORD|PASSPHRASE|CREDENTIAL|DSN)S?", re.IGNORECASE)
"""Variables that are no business of ours and look like secrets; a shell is full of them."""
_OF_THE_DATABASE: Final = re.compile(r"PG.*", re.IGNORECASE)
_OF_THE_BROKER: Final = re.compile(r"AWS_.*", re.IGNORECASE)
_OF_CALLS: Final = re.compile(r".*_PROXY", re.IGNORECASE)


def environment_of(part: Part, settings: Mapping[str, str]) -> dict[str, str]:
    """The whole environment of a process; `settings`, named without their prefix, go before what was inherited."""
    known = {**_inherited(part), **commands.environment(), WHOLE: "1"}
    for name, value in settings.items():
        if part in OWNERS.get(name, frozenset(Part)):
            known[PREFIX + name] = value
            known.pop(PREFIX + name + FILE, None)
    return known


def _inherited(part: Part) -> dict[str, str]:
    known = without_services({**_of_the_file(), **os.environ})
    return {name: value for name, value in known.items() if value is not None and _may_have(part, name)}


def _of_the_file() -> dict[str, str]:
    """Our variables in `.env`, but for those that the environment sets."""
    ours = {
        name.upper(): value
        for name, value in dotenv_values(Path(ENV_FILE), encoding="utf-8").items()
        if value and name.upper().startswith(PREFIX)
    }
    is_set = {name.upper() for name, value in without_services(os.environ).items() if value}
    return {name: value for name, value in ours.items() if name not in is_set}


def _may_have(part: Part, name: str) -> bool:
    upper = name.upper()
    if upper in (PROVIDER_KEY_ALIAS, PROVIDER_KEY_ALIAS + FILE):
        return False  # who needs it is told it under its own name
    if upper.startswith(PREFIX):
        return part in OWNERS.get(upper.removeprefix(PREFIX).removesuffix(FILE), frozenset(Part))
    if _OF_CALLS.fullmatch(name):
        return part is Part.WORKER
    if _OF_THE_DATABASE.fullmatch(name):
        return part in OWNERS["DATABASE_URL"]
    if _OF_THE_BROKER.fullmatch(name):
        return part in OWNERS["BROKER_URL"]
    return _OTHERS.fullmatch(name) is None
