"""Settings from the environment and `.env`, without Kubernetes' variables and with secrets from files."""

from pydantic import AliasChoices
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource

from jobs.environment import PREFIX, with_secrets_of_files, without_services


class EnvironmentSettings(BaseSettings):
    """The base of the server's settings and of a client's."""

    @classmethod
    def secret_variables(cls) -> list[str]:
        """Return the variables that may hold a secret. With the suffix `_FILE` each names a file with the secret."""
        found: list[str] = []
        for name, field in cls.model_fields.items():
            if "SecretStr" in str(field.annotation):
                aliases = field.validation_alias
                known = aliases.choices if isinstance(aliases, AliasChoices) else [PREFIX + name.upper()]
                found += map(str, known)
        return found

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003  # pydantic's signature
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003  # likewise
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return the sources by priority: arguments, the environment, `.env`."""
        for source in (env_settings, dotenv_settings):
            if isinstance(source, EnvSettingsSource):
                source.env_vars = with_secrets_of_files(without_services(source.env_vars), cls.secret_variables())
        return init_settings, env_settings, dotenv_settings
