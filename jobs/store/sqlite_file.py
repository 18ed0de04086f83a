"""Whether SQLite's file is still the one that was opened: it may be replaced, or deleted, under a running server.

SQLite itself does not look. What is written then goes into a file that nobody finds again, or its log is taken for the
new file's, which damages it.
"""

from pathlib import Path

from sqlalchemy.exc import OperationalError

from jobs.telemetry import get_logger

log = get_logger(__name__)

_Place = tuple[int, int]


class FileReplaced(OperationalError):
    """The database's file, or its log, is no longer the one that is open."""

    def __init__(self, path: Path) -> None:
        message = (
            f"{path} was replaced or deleted while the server runs: nothing is written any more. Put it back,"
            " or stop the server, remove the files that end in -wal and -shm, and start it again"
        )
        super().__init__(None, None, OSError(message))


class SqliteFile:
    """The file at `path` and its log, as they were when the first connection that is still open was made."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._log_path = path.with_name(f"{path.name}-wal")
        self._file: _Place | None = None
        self._log: _Place | None = None
        self._open = 0
        self._is_replaced = False

    def connecting(self) -> None:
        """A connection is about to be made.

        Raises:
            FileReplaced: it would be to another file than the others.
        """
        if self._file is not None and _place(self._path) != self._file:
            raise FileReplaced(self._path)

    def connected(self) -> None:
        """A connection was made."""
        self._open += 1
        if self._file is None:
            self._file = _place(self._path)

    def closed(self) -> None:
        """A connection was closed; once none is left, there is nothing to lose."""
        self._open -= 1
        if self._open == 0:
            self._file = self._log = None

    def is_replaced(self) -> bool:
        """Whether another file, or none, is where the open one was."""
        if self._file is None:
            return False
        log_place = _place(self._log_path)
        self._log = self._log or log_place  # it is there from the first write on, while any connection is open
        was_replaced, self._is_replaced = self._is_replaced, (_place(self._path), log_place) != (self._file, self._log)
        if self._is_replaced and not was_replaced:
            log.error("database file was replaced or deleted: nothing is written any more", file=str(self._path))
        elif was_replaced and not self._is_replaced:
            log.warning("database file is back", file=str(self._path))
        return self._is_replaced

    def replaced(self) -> FileReplaced:
        """What a write is refused with."""
        return FileReplaced(self._path)


def _place(path: Path) -> _Place | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
