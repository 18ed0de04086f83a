"""The settings of every process, with units and defaults. A composition root builds them once and passes them on.

`.env.example` is generated from this class.
"""

import json
import logging
import os
from datetime import timedelta
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import quote, urlsplit

from dotenv import dotenv_values
from pydantic import (
    AfterValidator,
    AliasChoices,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import NoDecode, SettingsConfigDict
from sqlalchemy import URL

from jobs.database_url import checked_database_url
from jobs.environment import FILE, PREFIX, notices
from jobs.environment_settings import EnvironmentSettings
from jobs.errors import SettingsError
from jobs.job import OnUnknownOutcome, Truncation
from jobs.redacted_url import shown_url
from jobs.redis_url import SENTINELS_WANTED, Sentinels, is_sentinel, with_master
from jobs.setting_checks import (
    CommaSeparated,
    checked_broker_url,
    checked_redis_url,
    fernet_keys,
    header_key,
    is_loopback,
    json_object,
    long_enough,
    networks,
    origins,
    without_newline,
)
from jobs.webhooks.url_policy import DestinationPolicy

ENV_FILE = ".env"
PROVIDER_KEY_ALIAS = "AIMLAPI_API_KEY"
WHOLE = f"{PREFIX}ENVIRONMENT_IS_WHOLE"
"""Set by `up` for its child processes: the environment is complete, so `.env` is not read."""
BASE_URL = f"{PREFIX}BASE_URL"
"""Read only by the client commands."""


class Transport(StrEnum):
    """The way to wait for an answer."""

    PLAIN = "plain"
    STREAM = "stream"
    BACKGROUND = "background"


class Dialect(StrEnum):
    """The form of the requests to a provider."""

    STRICT = "strict"
    OPENAI = "openai"


OPENAI_HOSTS = (".openai.com", ".openai.azure.com")


class Settings(EnvironmentSettings):
    """The settings of every process, from `BACKBURNER_*` variables and `.env`; an empty variable counts as unset."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_file=ENV_FILE,
        env_file_encoding="utf-8",
        env_ignore_empty=True,
        extra="ignore",
        populate_by_name=True,
    )

    provider_base_url: str = Field("https://api.aimlapi.com/v1", description="base URL of POST {base}/responses")
    provider_api_key: Annotated[SecretStr | None, AfterValidator(header_key)] = Field(
        None,
        validation_alias=AliasChoices(f"{PREFIX}PROVIDER_API_KEY", PROVIDER_KEY_ALIAS),
        description="bearer key for the provider; AIMLAPI_API_KEY is read as well",
    )
    provider_transport: Transport = Field(
        Transport.PLAIN, description="way to wait for an answer: plain, stream or background"
    )
    provider_dialect: Dialect | None = Field(
        None,
        description="form of the requests: strict (AI/ML API's documented schema) or openai (as clients send them);"
        " empty means openai for OpenAI's own hosts and strict for any other",
    )
    provider_max_calls: int | None = Field(
        None, ge=1, description="calls in flight over all workers; empty means as many as the workers have slots"
    )
    provider_ids: Literal["allow", "refuse"] | None = Field(
        None,
        description="requests that name objects stored by the provider (files, vector stores, containers, prompts,"
        " images): allow or refuse; empty means allow until there is a second API key, as all share the provider's",
    )
    models: Annotated[list[str], NoDecode, CommaSeparated] = Field(
        ["openai/o3-pro"], min_length=1, description="comma-separated models that clients may ask for"
    )
    database_url: Annotated[SecretStr | None, AfterValidator(checked_database_url)] = Field(
        None, description="SQLAlchemy URL; empty means SQLite in the data dir"
    )
    redis_url: Annotated[SecretStr, AfterValidator(checked_redis_url)] = Field(
        SecretStr("redis://127.0.0.1:6379/0"),
        description="events and limits, and the broker unless BROKER_URL is set; `up` starts its own server if unset",
    )
    redis_password: Annotated[SecretStr | None, AfterValidator(without_newline)] = Field(
        None, description="password for REDIS_URL if the URL has none; any character is allowed"
    )
    broker_url: Annotated[SecretStr | None, AfterValidator(checked_broker_url)] = Field(
        None, description="any broker that Celery supports; empty means REDIS_URL"
    )
    broker_options: Annotated[SecretStr | None, AfterValidator(json_object)] = Field(
        None, description='JSON for the broker\'s transport, such as {"master_name": "mymaster"} for Sentinel'
    )
    namespace: str | None = Field(
        None,
        pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$",
        description="prefix of queues, channels and exchanges on a shared broker; empty means an id from the database",
    )
    host: str = Field("127.0.0.1", min_length=1, description="address on which the API listens")
    port: int = Field(8000, ge=0, le=65535, description="port on which the API listens")
    data_dir: Path = Field(Path(".backburner"), description="SQLite file, Valkey files, api_key (mode 0600)")
    api_key: Annotated[SecretStr | None, AfterValidator(header_key), AfterValidator(long_enough)] = Field(
        None, description="bootstrap key with every scope, 16 characters or more; `up` generates one on first start"
    )
    worker_concurrency: int = Field(100, ge=1, le=100_000, description="calls in flight per worker process")
    max_attempts: int = Field(5, ge=1, le=1000, description="attempts per job, unless the request sets its own number")
    max_attempts_limit: int = Field(20, ge=1, le=1000, description="most that a request may set as max_attempts")
    retry_base_seconds: float = Field(2, ge=0, le=86400, description="first delay of the backoff, before full jitter")
    retry_max_seconds: float = Field(300, ge=0, le=86400, description="longest delay of that backoff")
    call_deadline_seconds: float = Field(1800, gt=0, le=604800, description="longest time of one attempt")
    stall_seconds: float = Field(
        300,
        gt=0,
        le=604800,
        description="transport stream: longest pause within a text; before its first text a model may be silent",
    )
    job_deadline_seconds: float = Field(
        86400, gt=0, le=31536000, description="longest time from submission to a final status, retries included"
    )
    on_unknown_outcome: OnUnknownOutcome = Field(
        OnUnknownOutcome.RETRY,
        description="after a call that may have been billed and whose answer was lost: retry or fail",
    )
    reconcile_after_seconds: float = Field(
        90,
        ge=0,
        le=86400,
        description="time after a lost answer at which the provider's log is asked whether the call ran and its cost",
    )
    reconcile_patience_seconds: float = Field(
        0,
        ge=0,
        le=86400,
        description="longest time that a job with on_unknown_outcome=fail waits for that log; 0 means not at all",
    )
    provider_logs_url: str | None = Field(
        None,
        description="URL of that log (AI/ML API's GET /v2/logs); empty means beside PROVIDER_BASE_URL, unused on a 404",
    )
    truncation: Truncation = Field(Truncation.DISABLED, description="sent if the request has none: auto or disabled")
    truncation_on_overflow: Literal["fail", "auto"] = Field(
        "fail", description='"auto" repeats a call whose context overflowed once, with truncation "auto"'
    )
    worker_timeout_seconds: float = Field(
        10,
        ge=1,
        le=3600,
        description="time without a heartbeat after which a worker counts as dead and its jobs are rescued",
    )
    shutdown_grace_seconds: float = Field(
        20,
        ge=0,
        le=86400,
        description="time that a stopping worker gives its calls to finish before it releases their jobs",
    )
    encryption_keys: Annotated[list[SecretStr], NoDecode, CommaSeparated, AfterValidator(fernet_keys)] = Field(
        [],
        description="comma-separated Fernet keys; the first encrypts webhook secrets and the credentials of tools,"
        " all decrypt; `up` generates one",
    )
    webhook_concurrency: int = Field(
        200, ge=1, le=10_000, description="webhook deliveries in flight per worker process, in addition to its calls"
    )
    webhook_allow_http: bool = Field(default=False, description="allow webhook endpoints with plain http")
    webhook_allow_networks: Annotated[
        list[IPv4Network | IPv6Network], NoDecode, BeforeValidator(networks), CommaSeparated
    ] = Field([], description="comma-separated CIDRs exempt from the SSRF guard, such as 127.0.0.0/8")
    retention_days: float = Field(30, gt=0, le=36500, description="time after which finished responses are erased")
    attempts_days: float = Field(
        400,
        ge=90,
        le=36500,
        description="time after which attempts of erased responses are summed up by day, model, key and outcome",
    )
    max_body_bytes: int = Field(10_485_760, ge=1024, description="larger requests, decompressed, get 413")
    max_connections: int = Field(
        10_000,
        ge=1,
        le=1_000_000,
        description="connections of one API process, fewer if it may open fewer files; the next one gets 503",
    )
    max_held_per_key: int = Field(
        1000,
        ge=1,
        le=1_000_000,
        description="held creates, waits and streams of one key that an API process keeps open; the next one gets 429",
    )
    held_patience_seconds: float = Field(
        600,
        gt=0,
        le=31536000,
        description="longest time that a held or streamed create waits for an unavailable provider; then 503, unbilled",
    )
    head_timeout_seconds: float = Field(
        30, gt=0, le=86400, description="time for a client to send a request's head; then 408"
    )
    body_timeout_seconds: float = Field(
        30, gt=0, le=86400, description="longest pause while a client sends a request's body; then 408"
    )
    write_timeout_seconds: float = Field(
        60,
        gt=0,
        le=86400,
        description="longest time that a client may read nothing of waiting data; a quiet stream is fine",
    )
    cors_origins: Annotated[list[str], NoDecode, AfterValidator(origins), CommaSeparated] = Field(
        [], description="comma-separated origins whose pages may call the API from a browser, or *; empty means none"
    )
    log_format: Literal["console", "json"] | None = Field(
        None, description="console or json; empty means console on a terminal, else json"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="debug, info, warning or error")

    @field_validator("provider_base_url")
    @classmethod
    def _http_url(cls, value: str) -> str:
        if not value.startswith(("http://", "https://")):
            raise ValueError("expected a URL that begins with http:// or https://")
        return value.rstrip("/")

    @model_validator(mode="after")
    def _sentinels_have_a_master(self) -> Self:
        for variable, url in (("REDIS_URL", self.redis), ("BROKER_URL", self.broker)):
            if is_sentinel(url):
                try:
                    Sentinels.from_url(url)
                except ValueError:
                    raise ValueError(f"{PREFIX}{variable}: {SENTINELS_WANTED}") from None
        return self

    @property
    def database(self) -> str:
        """The SQLAlchemy URL in force. It may hold a password: never log it."""
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        file = self.data_dir.absolute() / "backburner.db"
        return URL.create("sqlite", database=str(file)).render_as_string(hide_password=False)

    @property
    def redis(self) -> str:
        """The Redis URL in force. It may hold a password: never log it."""
        given = with_master(self.redis_url.get_secret_value(), self.broker_transport)
        url = urlsplit(given)
        if self.redis_password is None or url.password:
            return given
        user, _, host = url.netloc.rpartition("@")
        password = quote(self.redis_password.get_secret_value(), safe="")
        return url._replace(netloc=f"{user.removesuffix(':')}:{password}@{host}").geturl()

    @property
    def broker(self) -> str:
        """The broker's URL in force. It may hold a password: never log it."""
        if self.broker_url is not None:
            return with_master(self.broker_url.get_secret_value(), self.broker_transport)
        return self.redis

    @property
    def broker_transport(self) -> dict[str, Any]:
        """The operator's options for the broker's transport. They may hold a password: never log them."""
        if self.broker_options is None:
            return {}
        options: dict[str, Any] = json.loads(self.broker_options.get_secret_value())
        return options

    @property
    def dialect(self) -> Dialect:
        """The form of requests in force."""
        if self.provider_dialect is not None:
            return self.provider_dialect
        host = urlsplit(self.provider_base_url).hostname or ""
        return Dialect.OPENAI if f".{host}".endswith(OPENAI_HOSTS) else Dialect.STRICT

    @property
    def sends_in_clear(self) -> bool:
        """Return whether the provider's key, prompts and answers leave this machine unencrypted."""
        parts = urlsplit(self.provider_base_url)
        return parts.scheme == "http" and not is_loopback(parts.hostname or "")

    @property
    def provider_name(self) -> str:
        """Return the host of the provider's URL, which names it in the database and in logs."""
        return urlsplit(self.provider_base_url).netloc.rpartition("@")[2]

    @property
    def provider_shown(self) -> str:
        """The provider's URL without secrets, for people to read."""
        return shown_url(self.provider_base_url)

    @property
    def logs_url(self) -> str:
        """The URL of the provider's log of calls, which need not exist."""
        return self.provider_logs_url or self.provider_beside("/v2/logs")

    def provider_beside(self, path: str) -> str:
        """Return the URL of a route beside the provider's `/v1`, with the base URL's query."""
        parts = urlsplit(self.provider_base_url)
        return parts._replace(path=parts.path.rstrip("/").removesuffix("/v1") + path).geturl()

    @property
    def destination_policy(self) -> DestinationPolicy:
        """The destinations to which webhooks may be sent."""
        return DestinationPolicy(self.webhook_allow_http, tuple(self.webhook_allow_networks))

    @property
    def call_deadline(self) -> timedelta:
        """Longest time of one attempt."""
        return timedelta(seconds=self.call_deadline_seconds)

    @property
    def stall(self) -> timedelta:
        """Longest pause within a streamed text."""
        return timedelta(seconds=self.stall_seconds)

    @property
    def worker_timeout(self) -> timedelta:
        """Time without a heartbeat after which a worker counts as dead."""
        return timedelta(seconds=self.worker_timeout_seconds)


def load_settings(**overrides: object) -> Settings:
    """Read and check the environment.

    Raises:
        SettingsError: one or more variables are wrong; every one is named, no value is repeated.
    """
    logging.getLogger("dotenv.main").setLevel(logging.ERROR)
    try:
        return Settings(_env_file=None if os.environ.get(WHOLE) else ENV_FILE, **overrides)  # type: ignore[arg-type]  # pydantic checks the overrides' types
    except ValidationError as error:
        lines = [_line(each["loc"], _reason(each["msg"])) for each in error.errors()]
        raise SettingsError("Settings are wrong:\n" + "\n".join(dict.fromkeys(lines))) from None


def _line(place: tuple[int | str, ...], reason: str) -> str:
    """Return the line for an error. An error of several variables together names them in `reason`."""
    return f"  {variable_of(str(place[0]))}: {reason}" if place else f"  {reason}"


def variable_of(field: str) -> str:
    """Return the environment variable that sets `field`."""
    return field if field.startswith(PREFIX) or field == PROVIDER_KEY_ALIAS else PREFIX + field.upper()


def _reason(message: str) -> str:
    return message.removeprefix("Value error, ").replace("Input should be", "expected")


def ignored_variables() -> list[str]:
    """Return a sentence for each variable of the environment and of `.env` that looks like ours but is ignored.

    Call it before `create_celery`, which removes Celery's variables. Empty in child processes of `up`, which has
    reported them itself.
    """
    if os.environ.get(WHOLE):
        return []
    secrets = Settings.secret_variables()
    known = {*map(variable_of, Settings.model_fields), *secrets, *(each + FILE for each in secrets), WHOLE, BASE_URL}
    read = dotenv_values(ENV_FILE, encoding="utf-8").items()
    return notices({**{name: value for name, value in read if name.upper().startswith(PREFIX)}, **os.environ}, known)
