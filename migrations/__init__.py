"""The schema's history, applied by Alembic on SQLite and PostgreSQL alike.

Alembic is imported by what applies it: a server only asks whether that was done, and would hold 7 MB (decision 0007).
"""

from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, Text, column, inspect, select, table

if TYPE_CHECKING:
    from alembic.config import Config

DIRECTORY: Final = Path(__file__).parent
HEAD: Final = max(path.name.partition("_")[0] for path in DIRECTORY.glob("versions/[0-9]*.py"))
"""The newest revision; each is the number that its file's name begins with."""


def config_for(url: str) -> "Config":
    """Alembic's configuration for the database at `url`; there is no alembic.ini to keep in step."""
    from alembic.config import Config  # noqa: PLC0415  # a server has no use for it

    config = Config()
    config.set_main_option("script_location", str(DIRECTORY))
    config.attributes["url"] = url
    return config


def upgrade(url: str, revision: str = "head") -> None:
    """Bring the database at `url` up to `revision`. Safe to run again, and from several places at once."""
    from alembic import command  # noqa: PLC0415  # a server has no use for it

    command.upgrade(config_for(url), revision)


def downgrade(url: str, revision: str) -> None:
    """Take the database at `url` down to `revision`."""
    from alembic import command  # noqa: PLC0415  # a server has no use for it

    command.downgrade(config_for(url), revision)


def is_current(tx: Connection) -> bool:
    """Whether the database has every migration that this release knows."""
    if not inspect(tx).has_table("alembic_version"):
        return False
    applied = tx.execute(select(column("version_num", Text)).select_from(table("alembic_version")))
    return list(applied.scalars()) == [HEAD]
