"""The report of `doctor`: all passed, wrong settings, its text for people, and no secret in it."""

import json

import pytest
from typer.testing import CliRunner

from cli.main import app
from tests.cli.doctor.diagnosis import SECRET, Change, Provider, diagnose


def test_everything_passes(healthy: pytest.MonkeyPatch, provider: Provider) -> None:
    status, results = diagnose()
    assert status == 0
    errors = [each for group in results.values() for each in group if each["status"] == "error"]
    assert errors == []
    for name in ("settings", "data dir", "database", "worker", "redis", "broker", "limits", "provider"):
        assert results[name][0]["status"] == "ok"
    assert results["worker"][0]["message"] == "1 live, 100 calls at once"
    assert results["provider key"][0]["message"] == "accepted, balance 12.50 USD"
    assert not [path for path in provider.requested if "responses" in path]


def test_the_text_has_signs_and_hints(healthy: pytest.MonkeyPatch) -> None:
    healthy.setenv("BACKBURNER_REDIS_URL", "redis://:hush@127.0.0.1:1/0")
    done = CliRunner().invoke(app, ["doctor"])
    assert done.exit_code == 1
    assert "✓  database" in done.stdout
    assert "✗  redis" in done.stdout
    assert "→ check BACKBURNER_REDIS_URL" in done.stdout
    assert "hush" not in done.stdout


def test_wrong_settings_are_the_only_result(healthy: pytest.MonkeyPatch) -> None:
    healthy.setenv("BACKBURNER_PORT", "high")
    status, results = diagnose()
    assert (status, list(results)) == (1, ["settings"])
    assert "BACKBURNER_PORT" in results["settings"][0]["message"]


@pytest.mark.parametrize(
    ("name", "words", "broken"),
    [
        ("data dir", "cannot be written to", lambda env, _: env.setenv("BACKBURNER_DATA_DIR", "/dev/null")),
        ("database", "does not exist yet", lambda env, _: env.delenv("BACKBURNER_DATABASE_URL")),
        (
            "database",
            "postgresql://someone:***@127.0.0.1:1/name",
            lambda env, _: env.setenv("BACKBURNER_DATABASE_URL", "postgresql://someone:hush@127.0.0.1:1/name"),
        ),
        ("redis", "no embedded Valkey is running", lambda env, _: env.delenv("BACKBURNER_REDIS_URL")),
        (
            "broker",
            "sentinel://",
            lambda env, _: env.setenv(
                "BACKBURNER_BROKER_URL", "sentinel://:hush@127.0.0.1:1/0?master_name=m&sentinel_password=hush"
            ),
        ),
        ("broker", "amqp://", lambda env, _: env.setenv("BACKBURNER_BROKER_URL", "amqp://me:hush@127.0.0.1:1//")),
        (
            "provider",
            "refused",
            lambda env, _: env.setenv("BACKBURNER_PROVIDER_BASE_URL", "http://127.0.0.1:1/v1"),
        ),
        *(
            (
                "provider",
                "cannot be used; proxies are http:// or https://",
                lambda env, _, name=name, value=value: env.setenv(name, value),
            )
            for name, value in (("http_proxy", "socks5://h:1"), ("http_proxy", "ftp://h"), ("no_proxy", "[::1"))
        ),
        ("model", "other is not offered", lambda env, _: env.setenv("BACKBURNER_MODELS", "other")),
        (
            "provider key",
            "refused with HTTP 401: the key *** is unknown",
            lambda _, provider: setattr(provider, "billing", (401, {"message": f"the key {SECRET} is unknown"})),
        ),
        (
            "provider key",
            "refused with HTTP 403: You've run out of credits",
            lambda _, provider: setattr(provider, "billing", (403, {"message": "You've run out of credits"})),
        ),
    ],
)
def test_a_broken_part_is_an_error(
    healthy: pytest.MonkeyPatch, provider: Provider, name: str, words: str, broken: Change
) -> None:
    broken(healthy, provider)
    status, results = diagnose()
    assert status == 1
    (error,) = [each for each in results[name] if each["status"] == "error"]
    assert words in error["message"]
    text = json.dumps(results)
    assert "hush" not in text
    assert SECRET not in text


@pytest.mark.parametrize(
    ("name", "words", "odd"),
    [
        (
            "provider key",
            "this provider has no such route",
            lambda _, provider: setattr(provider, "billing", (404, {})),
        ),
        ("provider key", "balance 0.40 USD", lambda _, p: setattr(p, "billing", (200, {"current_balance": 0.4}))),
        ("provider key", "none", lambda env, _: env.delenv("BACKBURNER_PROVIDER_API_KEY")),
        ("model", "the provider has no list of models", lambda _, provider: setattr(provider, "models", (404, {}))),
        ("model", "answered HTTP 500", lambda _, provider: setattr(provider, "models", (500, {}))),
    ],
)
def test_what_cannot_be_checked_or_may_be_intended_is_a_warning(
    healthy: pytest.MonkeyPatch, provider: Provider, name: str, words: str, odd: Change
) -> None:
    odd(healthy, provider)
    status, results = diagnose()
    assert status == 0
    assert [each for each in results[name] if each["status"] == "warning" and words in each["message"]]
