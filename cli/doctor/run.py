"""`backburner doctor`: what stands between a prompt and its answer on this machine, with one hint per failure."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from urllib.parse import unquote, urlsplit

import typer
from pydantic import SecretStr
from rich.table import Table
from rich.text import Text

from cli import render
from cli.doctor.local import (
    check_broker,
    check_data_dir,
    check_database,
    check_redis,
    check_shutdown_dates,
    check_webhooks,
)
from cli.doctor.provider import check_provider
from cli.doctor.result import Finding, Level, bad, doubtful, good
from cli.up import valkey
from jobs.errors import SettingsError
from jobs.redis_url import Sentinels, is_sentinel
from jobs.settings import Settings, ignored_variables, load_settings
from jobs.telemetry import log_to_stderr

SIGNS = {Level.OK: ("✓", "green"), Level.WARNING: ("!", "yellow"), Level.ERROR: ("✗", "red")}


def doctor(*, as_json: bool) -> None:
    """Check everything and report; exits with 1 if something does not work."""
    log_to_stderr()
    try:
        settings = load_settings()
    except SettingsError as error:
        findings = [bad("settings", str(error), "correct the variables named")]
    else:
        findings = [_without_secrets(each, _secrets(settings)) for each in examine(settings)]
    healthy = all(each.level is not Level.ERROR for each in findings)
    if as_json:
        render.print_json({"ok": healthy, "checks": [_as_json(each) for each in findings]})
    else:
        _print(findings)
    if not healthy:
        raise typer.Exit(1)


def examine(settings: Settings) -> Iterator[Finding]:
    """Every finding, in the order in which things are needed."""
    yield good("settings", "all valid")
    for each in ignored_variables():
        yield doubtful("settings", each, "remove it, or correct its name; Kubernetes: enableServiceLinks: false")
    yield check_data_dir(settings)
    settings, redis = _check_redis(settings)
    broker = check_broker(settings) if settings.broker_url is not None or redis.level is not Level.ERROR else redis
    # looked at before the database, as nobody can listen to a broker that is away
    yield from check_database(settings, None if broker.level is Level.OK else broker.message)
    yield redis
    if broker is not redis:
        yield broker
    yield check_webhooks(settings)
    yield from check_shutdown_dates(settings, datetime.now(UTC).date())
    yield from check_provider(settings)


def _check_redis(settings: Settings) -> tuple[Settings, Finding]:
    """Redis as named, or as a running `up` embeds it; the settings come back with the URL that was found."""
    if not valkey.is_embedded(settings):
        return settings, check_redis(settings.redis)
    embedded = valkey.last_url(settings.data_dir)
    if embedded is not None and (finding := check_redis(embedded)).level is Level.OK:
        return settings.model_copy(update={"redis_url": SecretStr(embedded)}), finding
    hint = "start it: make up; or name a server in BACKBURNER_REDIS_URL"
    return settings, bad("redis", "no embedded Valkey is running", hint)


def _without_secrets(finding: Finding, secrets: Sequence[str]) -> Finding:
    """What others say about our requests may repeat them."""
    message = finding.message
    for secret in secrets:
        message = message.replace(secret, "***")
    return replace(finding, message=message)


def _secrets(settings: Settings) -> Sequence[str]:
    whole = [key.get_secret_value() for key in (settings.provider_api_key, settings.api_key) if key is not None]
    whole += [key.get_secret_value() for key in settings.encryption_keys]
    urls = (settings.database, settings.redis, settings.broker, settings.provider_base_url, settings.logs_url)
    quoted = [urlsplit(url).password for url in urls]
    quoted += [Sentinels.from_url(url).own.get("password") for url in urls if is_sentinel(url)]
    passwords = [form for each in quoted if each for form in (each, unquote(each))]
    return [secret for secret in (*whole, *passwords) if secret]


def _print(findings: Sequence[Finding]) -> None:
    grid = Table.grid(padding=(0, 2))
    grid.add_column()
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for each in findings:
        sign, colour = SIGNS[each.level]
        text = Text(render.printable(each.message))
        if each.hint:
            text.append(f"\n→ {each.hint}", "dim")
        grid.add_row(Text(sign, f"bold {colour}"), Text(each.name, "bold"), text)
    render.show(grid)


def _as_json(finding: Finding) -> dict[str, str]:
    return {
        "name": finding.name,
        "status": finding.level.value,
        "message": finding.message,
        "hint": finding.hint,
    }
