"""Detects that SQLite's file was replaced, deleted or overwritten while it is open.

SQLite itself does not check. It would write to a file that has no name any more, or its log would be taken for the new
file's and damage that.
"""

import os
from pathlib import Path
from typing import Final

from sqlalchemy.exc import OperationalError

from jobs.store.sqlite_overwrite_check import FileId, OverwriteCheck, count_connection
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
    """The database's file or its log is not the one that is open any more, or has another's contents.

    `happened` is `REPLACED` or `OVERWRITTEN`.
    """

    def __init__(self, path: Path, happened: str = REPLACED) -> None:
        message = f"{path} was {happened} while the server runs: nothing is written any more. {_REMEDIES[happened]}"
        super().__init__(None, None, OSError(message))
        self.happened = happened


class SqliteFile:
    """The file at `path` and its log, as they were when the first of the open connections was made."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._log_path = path.with_name(f"{path.name}-wal")
        self._file: FileId | None = None
        self._log: FileId | None = None
        self._overwrite_check = OverwriteCheck(path)
        self._open = 0
        self._is_replaced = False
        self.is_overwritten = False

    def connecting(self) -> None:
        """Check the file before a connection is made.

        Raises:
            FileReplaced: it would be to another file than the open connections.
        """
        if self._file is not None and _id(_stat(self._path)) != self._file:
            raise FileReplaced(self._path)

    def connected(self) -> None:
        """Count a connection that was made."""
        self._open += 1
        if self._file is None:
            self._file = _id(_stat(self._path))
        if self._file is not None:
            count_connection(self._file, 1)

    def closed(self) -> None:
        """Count a connection that was closed. After the last one another file may take the place of this one."""
        self._open -= 1
        if self._file is not None:
            count_connection(self._file, -1)
        if self._open == 0:
            self._file = self._log = None
            self.is_overwritten = False

    def close(self) -> None:
        """Close the files that the check has opened, once all connections are closed for good."""
        self._overwrite_check.close()

    def is_replaced(self) -> bool:
        """Return whether the open file was replaced or deleted, or something else has written to it."""
        if self._file is None:
            return False
        found, log_id = _stat(self._path), _id(_stat(self._log_path))
        self._log = self._log or log_id  # it exists from the first write on, while any connection is open
        was_replaced, self._is_replaced = self._is_replaced, (_id(found), log_id) != (self._file, self._log)
        if found is not None and not self._is_replaced and self._is_overwritten(found):
            return True
        if self._is_replaced and not was_replaced:
            log.error("database file was replaced or deleted: nothing is written any more", file=str(self._path))
        elif was_replaced and not self._is_replaced:
            log.warning("database file is back", file=str(self._path))
        return self._is_replaced

    def replaced(self) -> FileReplaced:
        """Return the error of a refused write."""
        return FileReplaced(self._path, OVERWRITTEN if self.is_overwritten else REPLACED)

    def _is_overwritten(self, found: os.stat_result) -> bool:
        """Return whether the file was overwritten; once it was, that does not change."""
        if not self.is_overwritten and self._overwrite_check.is_overwritten(found):
            self.is_overwritten = True
            log.error("database file was overwritten: nothing is written any more", file=str(self._path))
        return self.is_overwritten


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def _id(found: os.stat_result | None) -> FileId | None:
    return None if found is None else (found.st_dev, found.st_ino)
