"""The schema's migrations, applied by Alembic to SQLite and PostgreSQL alike.

Alembic is imported by what applies it: a server only asks whether that was done, and would hold 7 MB (decision 0006).
"""

from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy import Connection, Text, column, inspect, select, table

if TYPE_CHECKING:
    from alembic.config import Config

DIRECTORY: Final = Path(__file__).parent
HEAD: Final = max(path.name.partition("_")[0] for path in DIRECTORY.glob("versions/[0-9]*.py"))
"""The newest revision. A revision is the number at the start of its file's name."""


def config_for(url: str) -> "Config":
    """Return Alembic's configuration for the database at `url`. There is no alembic.ini."""
    from alembic.config import Config  # noqa: PLC0415  # a server has no use for it

    config = Config()
    config.set_main_option("script_location", str(DIRECTORY))
    config.attributes["url"] = url
    return config


def upgrade(url: str, revision: str = "head") -> None:
    """Upgrade the database at `url` to `revision`. Safe to repeat, and to run from several places at once."""
    from alembic import command  # noqa: PLC0415  # a server has no use for it

    command.upgrade(config_for(url), revision)


def downgrade(url: str, revision: str) -> None:
    """Downgrade the database at `url` to `revision`."""
    from alembic import command  # noqa: PLC0415  # a server has no use for it

    command.downgrade(config_for(url), revision)


def is_current(tx: Connection) -> bool:
    """Return whether the database is at the newest migration of this release."""
    if not inspect(tx).has_table("alembic_version"):
        return False
    applied = tx.execute(select(column("version_num", Text)).select_from(table("alembic_version")))
    return list(applied.scalars()) == [HEAD]
