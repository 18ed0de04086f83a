"""Parse docker-compose.yml as Compose does: interpolate it, split its commands, resolve its environments."""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
PATH = ROOT / "docker-compose.yml"
SERVERS = frozenset({"postgres", "redis"})

DOTENV = {
    "POSTGRES_PASSWORD": "p@ss/w%rd #:?&'$x",  # every character that is special in a URL or a shell
    "REDIS_PASSWORD": "r>~ed/i%s #:?&'$x\" @",  # and those that are special in a list of users
    "FLOWER_REDIS_PASSWORD": "f>~l/o%w #:?&'$x\" @",
    "BACKBURNER_API_KEY": "bb_key-of-the-compose-tests",
    "BACKBURNER_PROVIDER_API_KEY": "sk-provider-of-the-compose-tests",
    "BACKBURNER_ENCRYPTION_KEYS": "a2V5LW9mLXRoZS1jb21wb3NlLXRlc3RzLTMyLWJ5dGU=",
    "FLOWER_BASIC_AUTH": "operator:flower-password-of-the-compose-tests",
}
"""The `.env` with which the file must work without further changes."""

_VARIABLE = re.compile(
    r"\$(?:(?P<escaped>\$)|\{(?P<name>\w+)(?::(?P<how>[-?])(?P<rest>[^{}]*))?\}|(?P<bare>[A-Za-z_]\w*)|(?P<wrong>))"
)
_SECONDS = {"h": 3600, "m": 60, "s": 1}


class MissingVariable(Exception):
    """A required variable is not set. The text is the message in the file."""


@dataclass(frozen=True)
class Port:
    """A published port."""

    address: str
    published: int
    target: int


@dataclass(frozen=True)
class Service:
    """The parts of a service that the tests check. `raw` is the whole service."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    healthcheck: Sequence[str]
    depends_on: Mapping[str, str]
    ports: Sequence[Port]
    networks: frozenset[str]
    raw: Mapping[str, Any]


@dataclass(frozen=True)
class ComposeFile:
    """The whole file. `raw` is its interpolated YAML."""

    services: Mapping[str, Service]
    raw: Mapping[str, Any]

    @property
    def ours(self) -> Mapping[str, Service]:
        """The services that run Backburner's image."""
        return {name: service for name, service in self.services.items() if name not in SERVERS}

    def start_order(self) -> Sequence[Service]:
        """Return our services, each after its dependencies."""
        order: list[Service] = []
        remaining = dict(self.ours)
        while remaining:
            ready = [each for each in remaining.values() if not remaining.keys() & each.depends_on.keys()]
            assert ready, f"{', '.join(remaining)} wait for each other"
            order += ready
            for each in ready:
                del remaining[each.name]
        return order


def load(dotenv: Mapping[str, str]) -> ComposeFile:
    """Parse the file with `dotenv` as its `.env`.

    Raises:
        MissingVariable: the file requires a variable that `dotenv` lacks.
    """
    raw = _interpolated(yaml.safe_load(PATH.read_text("utf-8")), dotenv)
    services = {name: _service(name, each, dotenv) for name, each in raw["services"].items()}
    return ComposeFile(services, raw)


def seconds(duration: str) -> float:
    """Return the seconds of a duration in Compose's notation, such as `1m30s`."""
    assert re.fullmatch(r"(\d+[hms])+", duration), duration
    return sum(int(number) * _SECONDS[unit] for number, unit in re.findall(r"(\d+)([hms])", duration))


def _interpolated(value: Any, dotenv: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return _VARIABLE.sub(lambda match: _substitute(match, dotenv), value)
    if isinstance(value, list):
        return [_interpolated(each, dotenv) for each in value]
    if isinstance(value, dict):
        return {key: _interpolated(each, dotenv) for key, each in value.items()}
    return value


def _substitute(match: re.Match[str], dotenv: Mapping[str, str]) -> str:
    if match["escaped"]:
        return "$"
    name = match["name"] or match["bare"]
    assert name, f"neither a variable nor an escaped dollar sign: {match.string}"
    value = dotenv.get(name, "")
    if value or not match["how"]:
        return value
    if match["how"] == "?":
        raise MissingVariable(match["rest"])
    return str(match["rest"])


def _service(name: str, raw: Mapping[str, Any], dotenv: Mapping[str, str]) -> Service:
    return Service(
        name,
        command=_split(raw["command"]),
        environment=_environment(raw.get("environment", {}), dotenv),
        healthcheck=_exec_form(raw.get("healthcheck", {}).get("test", [])),
        depends_on={each: str(how["condition"]) for each, how in raw.get("depends_on", {}).items()},
        ports=[_port(each) for each in raw.get("ports", [])],
        networks=frozenset(raw.get("networks", ["default"])),
        raw=raw,
    )


def _split(command: str | Sequence[str]) -> Sequence[str]:
    return shlex.split(command) if isinstance(command, str) else [str(each) for each in command]


def _environment(raw: Mapping[str, Any], dotenv: Mapping[str, str]) -> Mapping[str, str]:
    """Resolve an environment. A variable without a value is taken from `.env`, or left out if that lacks it."""
    given = {name: dotenv.get(name) if value is None else str(value) for name, value in raw.items()}
    return {name: value for name, value in given.items() if value is not None}


def _exec_form(test: str | Sequence[str]) -> Sequence[str]:
    kind, *rest = ["CMD-SHELL", test] if isinstance(test, str) else test or ["NONE"]
    assert kind in {"NONE", "CMD", "CMD-SHELL"}
    return ["/bin/sh", "-c", *rest] if kind == "CMD-SHELL" else rest


def _port(text: str) -> Port:
    address, published, target = text.rsplit(":", 2)
    return Port(address, int(published), int(target))
