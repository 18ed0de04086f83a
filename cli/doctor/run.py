"""`backburner doctor`: check everything that a prompt needs to be answered here, and give a hint for each failure."""

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
from cli.doctor.result import CheckResult, Level, failed, passed, warning
from cli.up import valkey
from jobs.errors import SettingsError
from jobs.redis_url import Sentinels, is_sentinel
from jobs.settings import Settings, ignored_variables, load_settings
from jobs.telemetry import log_to_stderr

SIGNS = {Level.OK: ("✓", "green"), Level.WARNING: ("!", "yellow"), Level.ERROR: ("✗", "red")}


def doctor(*, as_json: bool) -> None:
    """Run every check and print the results. Exit with 1 if something does not work."""
    log_to_stderr()
    try:
        settings = load_settings()
    except SettingsError as error:
        results = [failed("settings", str(error), "correct the variables named")]
    else:
        results = [_without_secrets(each, _secrets(settings)) for each in run_checks(settings)]
    healthy = all(each.level is not Level.ERROR for each in results)
    if as_json:
        render.print_json({"ok": healthy, "checks": [_as_json(each) for each in results]})
    else:
        _print(results)
    if not healthy:
        raise typer.Exit(1)


def run_checks(settings: Settings) -> Iterator[CheckResult]:
    """Yield the result of every check, dependencies first."""
    yield passed("settings", "all valid")
    for each in ignored_variables():
        yield warning("settings", each, "remove it, or correct its name; Kubernetes: enableServiceLinks: false")
    yield check_data_dir(settings)
    settings, redis = _check_redis(settings)
    broker = check_broker(settings) if settings.broker_url is not None or redis.level is not Level.ERROR else redis
    # the broker is checked before the database's rows: while it is away, no worker can listen to it
    yield from check_database(settings, None if broker.level is Level.OK else broker.message)
    yield redis
    if broker is not redis:
        yield broker
    yield check_webhooks(settings)
    yield from check_shutdown_dates(settings, datetime.now(UTC).date())
    yield from check_provider(settings)


def _check_redis(settings: Settings) -> tuple[Settings, CheckResult]:
    """Check the configured Redis or the Valkey of a running `up`; return the settings with its URL, and the result."""
    if not valkey.is_embedded(settings):
        return settings, check_redis(settings.redis)
    embedded = valkey.last_url(settings.data_dir)
    if embedded is not None and (result := check_redis(embedded)).level is Level.OK:
        return settings.model_copy(update={"redis_url": SecretStr(embedded)}), result
    hint = "start it: make up; or name a server in BACKBURNER_REDIS_URL"
    return settings, failed("redis", "no embedded Valkey is running", hint)


def _without_secrets(result: CheckResult, secrets: Sequence[str]) -> CheckResult:
    """Remove secrets from a message, as it may quote an answer that repeats our request."""
    message = result.message
    for secret in secrets:
        message = message.replace(secret, "***")
    return replace(result, message=message)


def _secrets(settings: Settings) -> Sequence[str]:
    keys = [key.get_secret_value() for key in (settings.provider_api_key, settings.api_key) if key is not None]
    keys += [key.get_secret_value() for key in settings.encryption_keys]
    urls = (settings.database, settings.redis, settings.broker, settings.provider_base_url, settings.logs_url)
    quoted = [urlsplit(url).password for url in urls]
    quoted += [Sentinels.from_url(url).own.get("password") for url in urls if is_sentinel(url)]
    passwords = [form for each in quoted if each for form in (each, unquote(each))]
    return [secret for secret in (*keys, *passwords) if secret]


def _print(results: Sequence[CheckResult]) -> None:
    grid = Table.grid(padding=(0, 2))
    grid.add_column()
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for each in results:
        sign, colour = SIGNS[each.level]
        text = Text(render.printable(each.message))
        if each.hint:
            text.append(f"\n→ {each.hint}", "dim")
        grid.add_row(Text(sign, f"bold {colour}"), Text(each.name, "bold"), text)
    render.show(grid)


def _as_json(result: CheckResult) -> dict[str, str]:
    return {"name": result.name, "status": result.level.value, "message": result.message, "hint": result.hint}
