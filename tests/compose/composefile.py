"""docker-compose.yml as Compose reads it: interpolated, its commands split, its environment resolved."""

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
    "POSTGRES_PASSWORD": "p@ss/w%rd #:?&'$x",  # every character that a URL or a shell would trip over
    "REDIS_PASSWORD": "r>~ed/i%s #:?&'$x\" @",  # likewise, and those that a list of users would
    "FLOWER_REDIS_PASSWORD": "f>~l/o%w #:?&'$x\" @",
    "BACKBURNER_API_KEY": "bb_key-of-the-compose-tests",
    "BACKBURNER_PROVIDER_API_KEY": "sk-provider-of-the-compose-tests",
    "BACKBURNER_ENCRYPTION_KEYS": "a2V5LW9mLXRoZS1jb21wb3NlLXRlc3RzLTMyLWJ5dGU=",
    "FLOWER_BASIC_AUTH": "operator:flower-password-of-the-compose-tests",
}
"""The `.env` that must be all there is to do."""

_VARIABLE = re.compile(
    r"\$(?:(?P<escaped>\$)|\{(?P<name>\w+)(?::(?P<how>[-?])(?P<rest>[^{}]*))?\}|(?P<bare>[A-Za-z_]\w*)|(?P<wrong>))"
)
_SECONDS = {"h": 3600, "m": 60, "s": 1}


class MissingVariable(Exception):
    """A variable that the file demands is not set; the text is the file's own message."""


@dataclass(frozen=True)
class Port:
    """One published port."""

    address: str
    published: int
    target: int


@dataclass(frozen=True)
class Service:
    """What our tests look at of a service; `raw` is all of it."""

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
    """The whole file; `raw` is what its schema describes."""

    services: Mapping[str, Service]
    raw: Mapping[str, Any]

    @property
    def ours(self) -> Mapping[str, Service]:
        """The services that run Backburner's image."""
        return {name: service for name, service in self.services.items() if name not in SERVERS}

    def start_order(self) -> Sequence[Service]:
        """Our services, each after those that it waits for."""
        order: list[Service] = []
        left = dict(self.ours)
        while left:
            ready = [each for each in left.values() if not left.keys() & each.depends_on.keys()]
            assert ready, f"{', '.join(left)} wait for each other"
            order += ready
            for each in ready:
                del left[each.name]
        return order


def load(dotenv: Mapping[str, str]) -> ComposeFile:
    """The file as Compose sees it with `dotenv` as its `.env`.

    Raises:
        MissingVariable: the file demands a variable that `dotenv` lacks.
    """
    raw = _interpolated(yaml.safe_load(PATH.read_text("utf-8")), dotenv)
    services = {name: _service(name, each, dotenv) for name, each in raw["services"].items()}
    return ComposeFile(services, raw)


def seconds(duration: str) -> float:
    """The length of a duration as Compose writes it, such as `1m30s`."""
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
    """A variable without a value is handed on from `.env`; where that lacks it, the container does too."""
    given = {name: dotenv.get(name) if value is None else str(value) for name, value in raw.items()}
    return {name: value for name, value in given.items() if value is not None}


def _exec_form(test: str | Sequence[str]) -> Sequence[str]:
    kind, *rest = ["CMD-SHELL", test] if isinstance(test, str) else test or ["NONE"]
    assert kind in {"NONE", "CMD", "CMD-SHELL"}
    return ["/bin/sh", "-c", *rest] if kind == "CMD-SHELL" else rest


def _port(text: str) -> Port:
    address, published, target = text.rsplit(":", 2)
    return Port(address, int(published), int(target))
