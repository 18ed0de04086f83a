"""Whether SQLite's file is still the one that was opened: it may be replaced, deleted or overwritten meanwhile.

SQLite itself does not look. What is written then goes into a file that nobody finds again, or its log is taken for the
new file's, which damages it.
"""

import os
from pathlib import Path
from typing import Final

from sqlalchemy.exc import OperationalError

from jobs.store.sqlite_overwrite_check import Contents, Place, count_connection
from jobs.telemetry import get_logger

REPLACED: Final = "replaced or deleted"
OVERWRITTEN: Final = "overwritten"
_REMEDIES: Final = {
    REPLACED: "Put it back, or stop the server, remove the files that end in -wal and -shm, and start it again",
    OVERWRITTEN: "Stop the server, remove the files that end in -wal and -shm, copy the backup over it once more, and"
    " start the server again",
}

log = get_logger(__name__)


class FileReplaced(OperationalError):
    """The database's file, or its log, is no longer the one that is open, or what is in it is another's.

    `happened` says which of them, in a word.
    """

    def __init__(self, path: Path, happened: str = REPLACED) -> None:
        said = f"{path} was {happened} while the server runs: nothing is written any more. {_REMEDIES[happened]}"
        super().__init__(None, None, OSError(said))
        self.happened = happened


class SqliteFile:
    """The file at `path` and its log, as they were when the first connection that is still open was made."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._log_path = path.with_name(f"{path.name}-wal")
        self._file: Place | None = None
        self._log: Place | None = None
        self._contents = Contents(path)
        self._open = 0
        self._is_replaced = False
        self.is_overwritten = False

    def connecting(self) -> None:
        """A connection is about to be made.

        Raises:
            FileReplaced: it would be to another file than the others.
        """
        if self._file is not None and _place(_found(self._path)) != self._file:
            raise FileReplaced(self._path)

    def connected(self) -> None:
        """A connection was made."""
        self._open += 1
        if self._file is None:
            self._file = _place(_found(self._path))
        if self._file is not None:
            count_connection(self._file, 1)

    def closed(self) -> None:
        """A connection was closed; once none is left, there is nothing to lose."""
        self._open -= 1
        if self._file is not None:
            count_connection(self._file, -1)
        if self._open == 0:
            self._file = self._log = None
            self.is_overwritten = False

    def let_go(self) -> None:
        """All connections are closed for good."""
        self._contents.let_go()

    def is_replaced(self) -> bool:
        """Whether another file, or none, is where the open one was, or something else has written to it."""
        if self._file is None:
            return False
        found, log_place = _found(self._path), _place(_found(self._log_path))
        self._log = self._log or log_place  # it is there from the first write on, while any connection is open
        was_replaced, self._is_replaced = self._is_replaced, (_place(found), log_place) != (self._file, self._log)
        if found is not None and not self._is_replaced and self._is_overwritten(found):
            return True
        if self._is_replaced and not was_replaced:
            log.error("database file was replaced or deleted: nothing is written any more", file=str(self._path))
        elif was_replaced and not self._is_replaced:
            log.warning("database file is back", file=str(self._path))
        return self._is_replaced

    def replaced(self) -> FileReplaced:
        """What a write is refused with."""
        return FileReplaced(self._path, OVERWRITTEN if self.is_overwritten else REPLACED)

    def _is_overwritten(self, found: os.stat_result) -> bool:
        """What is overwritten stays so."""
        if not self.is_overwritten and self._contents.were_overwritten(found):
            self.is_overwritten = True
            log.error("database file was overwritten: nothing is written any more", file=str(self._path))
        return self.is_overwritten


def _found(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def _place(found: os.stat_result | None) -> Place | None:
    return None if found is None else (found.st_dev, found.st_ino)
