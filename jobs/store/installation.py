"""The installation's id, created by the migration: its namespace on a broker that it may share with others."""

from typing import Final

from sqlalchemy import select

from jobs.broker_names import Names
from jobs.store import schema
from jobs.store.database import Database

READ_SECONDS: Final = 2.0
"""A check of the broker must not wait for a database that does not answer."""
_NAMESPACE: Final = select(schema.installation.c.namespace)


class Installation:
    """The names on the broker, in the namespace that the operator chose or else the one in the database."""

    def __init__(self, database: Database, chosen: str | None) -> None:
        self._database = database
        self._names = None if chosen is None else Names(chosen)

    @property
    def known(self) -> Names | None:
        """The names if they are known without reading the database."""
        return self._names

    def names(self) -> Names:
        """Return the names. The database is read at most once.

        Raises:
            SQLAlchemyError: the database does not answer, or has not been migrated.
        """
        if self._names is None:
            with self._database.read(within=READ_SECONDS) as tx:
                self._names = Names(tx.execute(_NAMESPACE).scalar_one())
        return self._names
