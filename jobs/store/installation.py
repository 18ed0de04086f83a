"""The installation's own id, made once by the migration: its namespace on a broker that it may share."""

from typing import Final

from sqlalchemy import select

from jobs.broker_names import Names
from jobs.store import schema
from jobs.store.database import Database

READ_SECONDS: Final = 2.0
"""Whoever asks whether the broker answers is not to wait for a database that does not."""
_NAMESPACE: Final = select(schema.installation.c.namespace)


class Installation:
    """The names in force: of the namespace that the operator chose, else of the one that the database keeps."""

    def __init__(self, database: Database, chosen: str | None) -> None:
        self._database = database
        self._names = None if chosen is None else Names(chosen)

    @property
    def known(self) -> Names | None:
        """The names, if the database need not be asked for them."""
        return self._names

    def names(self) -> Names:
        """Return them; the database is read once at most.

        Raises:
            SQLAlchemyError: the database does not answer, or has not been migrated.
        """
        if self._names is None:
            with self._database.read(within=READ_SECONDS) as tx:
                self._names = Names(tx.execute(_NAMESPACE).scalar_one())
        return self._names
