"""The schema's history, applied by Alembic on SQLite and PostgreSQL alike."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection


def config_for(url: str) -> Config:
    """Alembic's configuration for the database at `url`; there is no alembic.ini to keep in step."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.attributes["url"] = url
    return config


def upgrade(url: str, revision: str = "head") -> None:
    """Bring the database at `url` up to `revision`. Safe to run again, and from several places at once."""
    command.upgrade(config_for(url), revision)


def downgrade(url: str, revision: str) -> None:
    """Take the database at `url` down to `revision`."""
    command.downgrade(config_for(url), revision)


def is_current(tx: Connection) -> bool:
    """Whether the database has every migration that this release knows."""
    head = ScriptDirectory(str(Path(__file__).parent)).get_current_head()
    return MigrationContext.configure(tx).get_current_revision() == head
