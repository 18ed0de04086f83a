"""Settings fail at start, naming every wrong variable and repeating no value."""

import re
from datetime import timedelta
from pathlib import Path

import pytest

from docs.generate import render_example
from jobs.encryption import generate_key
from jobs.environment import PREFIX
from jobs.errors import SettingsError
from jobs.job import OnUnknownOutcome, Truncation
from jobs.settings import Settings, Transport, load_settings, variable_of

SECRET = "hunter2-and-more"


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No variable of the machine and no `.env` but the test's own."""
    for name in (*map(variable_of, Settings.model_fields), "AIMLAPI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(monkeypatch: pytest.MonkeyPatch, **variables: str) -> str:
    for name, value in variables.items():
        monkeypatch.setenv(PREFIX + name, value)
    with pytest.raises(SettingsError) as error:
        load_settings()
    return str(error.value)


class TestDefaults:
    def test_everything_has_one(self, clean: Path) -> None:
        settings = load_settings()
        assert (settings.host, settings.port, settings.models) == ("127.0.0.1", 8000, ["openai/o3-pro"])
        assert settings.provider_base_url == "https://api.aimlapi.com/v1"
        assert (settings.provider_api_key, settings.api_key) == (None, None)
        assert (settings.provider_transport, settings.worker_concurrency) == (Transport.PLAIN, 100)
        assert (settings.max_attempts, settings.max_attempts_limit) == (5, 20)
        assert (settings.retry_base_seconds, settings.retry_max_seconds) == (2, 300)
        assert (settings.call_deadline, settings.job_deadline_seconds) == (timedelta(minutes=30), 86_400)
        assert settings.worker_timeout == timedelta(seconds=10)
        assert settings.on_unknown_outcome is OnUnknownOutcome.RETRY
        assert (settings.truncation, settings.truncation_on_overflow) == (Truncation.DISABLED, "fail")
        assert (settings.webhook_allow_http, settings.webhook_allow_networks) == (False, [])
        assert (settings.retention_days, settings.max_body_bytes) == (30, 10_485_760)
        assert settings.cors_origins == []
        assert settings.database == f"sqlite:///{clean / '.backburner' / 'backburner.db'}"
        assert settings.broker == settings.redis

    @pytest.mark.parametrize(
        ("base", "logs"),
        [
            ("https://host/v1", "https://host/v2/logs"),
            ("https://host/v1/?api-version=1", "https://host/v2/logs?api-version=1"),
            ("https://host/openai/v1?a=b&c=d%26e", "https://host/openai/v2/logs?a=b&c=d%26e"),
            ("https://host/gateway", "https://host/gateway/v2/logs"),
        ],
    )
    def test_the_providers_log_is_beside_its_calls(
        self, clean: Path, monkeypatch: pytest.MonkeyPatch, base: str, logs: str
    ) -> None:
        monkeypatch.setenv(f"{PREFIX}PROVIDER_BASE_URL", base)
        assert load_settings().logs_url == logs

    def test_the_example_holds_every_variable_with_its_default(
        self, clean: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Taken as it is, with every line enabled, it changes nothing."""
        defaults = load_settings()
        example = render_example()
        assert set(re.findall(r"^#([A-Z_]+)=", example, re.MULTILINE)) == set(map(variable_of, Settings.model_fields))
        (clean / ".env").write_text(re.sub(r"^#([A-Z_]+=)", r"\1", example, flags=re.MULTILINE))
        assert load_settings() == defaults


class TestReading:
    def test_a_file_is_read_and_the_environment_goes_first(self, clean: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (clean / ".env").write_text("BACKBURNER_PORT=1234\nBACKBURNER_HOST=::1\n")
        monkeypatch.setenv("BACKBURNER_PORT", "4321")
        settings = load_settings()
        assert (settings.host, settings.port) == ("::1", 4321)

    def test_what_is_given_in_code_goes_before_both(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("BACKBURNER_PORT", "4321")
        assert load_settings(port=0).port == 0

    def test_lists_are_separated_by_commas(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("BACKBURNER_MODELS", " a/b, c ,,d ")
        monkeypatch.setenv("BACKBURNER_WEBHOOK_ALLOW_NETWORKS", "127.0.0.0/8, ::1/128")
        settings = load_settings()
        assert settings.models == ["a/b", "c", "d"]
        assert list(map(str, settings.webhook_allow_networks)) == ["127.0.0.0/8", "::1/128"]

    def test_origins_are_read_as_browsers_send_them(self, monkeypatch: pytest.MonkeyPatch) -> None:
        given = "https://App.Example.com:443, http://localhost:5173,http://[::1]:80, tauri://localhost"
        monkeypatch.setenv("BACKBURNER_CORS_ORIGINS", given)
        assert load_settings().cors_origins == [
            "https://app.example.com",
            "http://localhost:5173",
            "http://[::1]",
            "tauri://localhost",
        ]
        monkeypatch.setenv("BACKBURNER_CORS_ORIGINS", " * ")
        assert load_settings().cors_origins == ["*"]

    def test_encryption_keys_are_kept_in_their_order(self, monkeypatch: pytest.MonkeyPatch) -> None:
        first, second = generate_key(), generate_key()
        monkeypatch.setenv("BACKBURNER_ENCRYPTION_KEYS", f"{first}, {second}")
        assert [key.get_secret_value() for key in load_settings().encryption_keys] == [first, second]

    @pytest.mark.parametrize("name", ["BACKBURNER_PROVIDER_API_KEY", "AIMLAPI_API_KEY"])
    def test_the_providers_key_has_two_names(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(name, SECRET)
        key = load_settings().provider_api_key
        assert key is not None
        assert key.get_secret_value() == SECRET

    def test_an_empty_variable_counts_as_unset(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Compose files pass variables on as empty strings."""
        defaults = load_settings()
        for name in Settings.model_fields:
            monkeypatch.setenv(variable_of(name), "")
        settings = load_settings()
        assert settings == defaults
        assert settings.model_fields_set == set()

    def test_a_trailing_slash_of_the_provider_does_no_harm(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("BACKBURNER_PROVIDER_BASE_URL", "http://127.0.0.1:9/v1//")
        assert load_settings().provider_base_url == "http://127.0.0.1:9/v1"

    def test_variables_of_others_are_left_alone(self, clean: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PORT", "1")
        monkeypatch.setenv("BACKBURNER_TEST_POSTGRES_URL", "x")
        (clean / ".env").write_text("SOMETHING_ELSE=1\n")
        assert load_settings().port == 8000


WRONG = {
    "PROVIDER_BASE_URL": ["api.aimlapi.com", "ftp://x"],
    "PROVIDER_TRANSPORT": ["carrier-pigeon"],
    "API_KEY": ["x", "fifteen-letters"],
    "ENCRYPTION_KEYS": ["too-short", "not base64 at all, neither is this", f"{'A' * 20}!!{'A' * 23}="],
    "WEBHOOK_CONCURRENCY": ["0", "many"],
    "MODELS": [" , "],
    "DATABASE_URL": [
        "not a url",
        f"mysql://root:{SECRET}@localhost/x",
        f"postgresql://localhost:{SECRET}/x",
        f"postgresql://root:{SECRET}@localhost:port/x",
    ],
    "PORT": ["-1", "65536", "eighty", "80.5"],
    "WORKER_CONCURRENCY": ["0", "100001", "many"],
    "MAX_ATTEMPTS": ["0", "1001"],
    "MAX_ATTEMPTS_LIMIT": ["0"],
    "RETRY_BASE_SECONDS": ["-1", "nan", "inf"],
    "RETRY_MAX_SECONDS": ["-1", "nan"],
    "CALL_DEADLINE_SECONDS": ["0", "-5", "nan", "1e9"],
    "JOB_DEADLINE_SECONDS": ["0", "1e12", "inf"],
    "ON_UNKNOWN_OUTCOME": ["maybe", "Retry"],
    "TRUNCATION": ["none"],
    "TRUNCATION_ON_OVERFLOW": ["disabled"],
    "WORKER_TIMEOUT_SECONDS": ["0.5", "nan"],
    "SHUTDOWN_GRACE_SECONDS": ["-1"],
    "WEBHOOK_ALLOW_HTTP": ["perhaps"],
    "WEBHOOK_ALLOW_NETWORKS": ["localhost", "127.0.0.1/8", "10.0.0.0/33"],
    "RETENTION_DAYS": ["0", "nan"],
    "ATTEMPTS_DAYS": ["89", "nan"],
    "MAX_BODY_BYTES": ["1", "10MB"],
    "CORS_ORIGINS": [
        "app.example.com",
        "https://app.example.com/",
        "https://app.example.com/path",
        "https://user@app.example.com",
        "https://*.example.com",
        "https://app.example.com:http",
        "https://app.example.com:70000",
        "https://b\u00fccher.example",
        "https://",
        "null",
        "*, https://app.example.com",
    ],
    "LOG_FORMAT": ["xml"],
    "LOG_LEVEL": ["loud"],
}


class TestWrong:
    @pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
    def test_the_variable_is_named_and_its_value_is_not_repeated(
        self, name: str, value: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        message = refused(monkeypatch, **{name: value})
        head, *lines = message.splitlines()
        assert head == "Settings are wrong:"
        assert len(lines) == 1
        assert re.fullmatch(rf"  {PREFIX}{name}: \S.*", lines[0])
        assert SECRET not in message

    def test_all_are_named_at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        variables = {name: values[0] for name, values in WRONG.items()}
        lines = refused(monkeypatch, **variables).splitlines()[1:]
        assert {line.split(":")[0].strip() for line in lines} == {PREFIX + name for name in variables}
        assert len(lines) == len(variables)

    def test_those_of_a_file_as_well(self, clean: Path) -> None:
        (clean / ".env").write_text("BACKBURNER_PORT=no\nBACKBURNER_MODELS=,\n")
        with pytest.raises(SettingsError) as error:
            load_settings()
        assert {line.split(":")[0].strip() for line in str(error.value).splitlines()[1:]} == {
            "BACKBURNER_PORT",
            "BACKBURNER_MODELS",
        }

    def test_the_cause_carries_no_value_into_a_traceback(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("BACKBURNER_DATABASE_URL", f"mysql://root:{SECRET}@localhost/x")
        with pytest.raises(SettingsError) as error:
            load_settings()
        assert error.value.__cause__ is None
        assert error.value.__suppress_context__


class TestSecrets:
    @pytest.mark.parametrize(
        ("url", "in_clear"),
        [
            ("http://provider.example/v1", True),
            ("http://10.0.0.7:8080/v1", True),
            ("http://localhost.example/v1", True),
            ("https://provider.example/v1", False),
            ("http://127.0.0.1:9000/v1", False),
            ("http://127.8.9.10/v1", False),
            ("http://[::1]:9000/v1", False),
            ("http://localhost:9000/v1", False),
        ],
    )
    def test_plain_http_to_another_machine_is_known(
        self, url: str, in_clear: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("BACKBURNER_PROVIDER_BASE_URL", url)
        assert load_settings().sends_in_clear is in_clear

    VARIABLES = ("PROVIDER_API_KEY", "API_KEY", "DATABASE_URL", "REDIS_URL", "BROKER_URL")

    def test_none_shows(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in self.VARIABLES:
            scheme = "redis" if name == "REDIS_URL" else "amqp" if name == "BROKER_URL" else "postgresql"
            value = SECRET if name.endswith("KEY") else f"{scheme}://root:{SECRET}@localhost/0"
            monkeypatch.setenv(PREFIX + name, value)
        settings = load_settings()
        for shown in (repr(settings), str(settings), settings.model_dump_json(), str(settings.model_dump())):
            assert SECRET not in shown
        assert SECRET in settings.database
        assert SECRET in settings.broker
        assert SECRET in settings.redis

    def test_the_example_names_none(self) -> None:
        assert "bb_" not in render_example()
        assert re.search(r"^#BACKBURNER_API_KEY=$", render_example(), re.MULTILINE)


@pytest.mark.parametrize(
    ("url", "whole"),
    [
        ("redis://redis:6379/0", "redis://:p%40%3A%2F%20%25%23%3F%24@redis:6379/0"),
        ("redis://backburner@redis:6379/0", "redis://backburner:p%40%3A%2F%20%25%23%3F%24@redis:6379/0"),
        (
            "rediss://u@[::1]:6379/1?ssl_cert_reqs=none",
            "rediss://u:p%40%3A%2F%20%25%23%3F%24@[::1]:6379/1?ssl_cert_reqs=none",
        ),
        ("redis://u:its-own@redis/0", "redis://u:its-own@redis/0"),
    ],
)
def test_a_password_of_any_characters_reaches_redis_and_broker(url: str, whole: str) -> None:
    password = "p@:/ %#?$"
    settings = load_settings(redis_url=url, redis_password=password)
    assert (settings.redis, settings.broker) == (whole, whole)
    assert load_settings(redis_url=url).redis == url
    elsewhere = load_settings(redis_url=url, redis_password=password, broker_url="amqp://broker//")
    assert elsewhere.broker == "amqp://broker//"
    assert password not in repr(settings)
