"""Detects that anything but SQLite has written to its file, such as a backup copied over a running database.

With write-ahead logging SQLite writes to the file only in checkpoints, and records in its index (`-shm`) the beginning
and the end of each: https://sqlite.org/walformat.html. So if the header has changed without a checkpoint since the last
check, something else has written it. A touched file does not count, as only its time has changed.
"""

import os
import struct
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Final

FileId = tuple[int, int]
"""A file's device and inode."""

HEADER_BYTES: Final = 100
INDEX_BYTES: Final = 136
_SALTS, _BACKFILLED, _ATTEMPTED = slice(32, 40), slice(96, 100), slice(128, 132)
_NUMBER: Final = struct.Struct("=I")


@dataclass(frozen=True)
class _Checkpoints:
    """The part of the log that is in the file. Another `generation` is a log begun anew after all of it was."""

    generation: bytes
    backfilled: int
    attempted: int

    @classmethod
    def read(cls, index: int) -> "_Checkpoints":
        found = os.pread(index, INDEX_BYTES, 0).ljust(INDEX_BYTES, b"\0")
        (backfilled,), (attempted,) = (_NUMBER.unpack(found[each]) for each in (_BACKFILLED, _ATTEMPTED))
        return cls(found[_SALTS], backfilled, attempted)


@dataclass(frozen=True)
class _Seen:
    checkpoints: _Checkpoints
    written_at: tuple[int, int]
    header: bytes


class OverwriteCheck:
    """Compares the file at a path with its state at the last check."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._guard = Lock()
        self._seen: _Seen | None = None
        self._file_id: FileId | None = None

    def is_overwritten(self, found: os.stat_result) -> bool:
        """Return whether anything else has written to the file since the last check; `found` is its state now."""
        with self._guard:  # a check that overlaps another would take an older header for a change
            return self._check((found.st_dev, found.st_ino), (found.st_mtime_ns, found.st_size))

    def _check(self, file_id: FileId, written_at: tuple[int, int]) -> bool:
        if file_id != self._file_id:
            self._file_id, self._seen = file_id, None
        handles = _handles_of(file_id, self._path)
        if handles is None:  # there is no index before the first read
            return False
        file, index = handles
        before = _Checkpoints.read(index)
        seen = self._seen
        if seen is not None and (seen.checkpoints, seen.written_at) == (before, written_at):
            return False
        self._seen = _Seen(before, written_at, os.pread(file, HEADER_BYTES, 0))
        if seen is None or seen.header == self._seen.header:
            return False
        now = _Checkpoints.read(index)
        return now == seen.checkpoints and now.attempted == now.backfilled

    def close(self) -> None:
        """Close the files that this check has opened, if the process has no connection open."""
        if self._file_id is not None:
            _close(self._file_id)
        self._file_id = self._seen = None


# Closing a file drops all locks that the process holds on it, SQLite's among them. So the files opened here are shared,
# and closed only when the process has no connection to the database.
_guard: Final = Lock()
_handles: Final[dict[FileId, tuple[int, int]]] = {}
_connections: Final[Counter[FileId]] = Counter()


def count_connection(file_id: FileId, by: int) -> None:
    """Change the number of open connections to a file by `by`."""
    with _guard:
        _connections[file_id] += by
        if not _connections[file_id]:
            del _connections[file_id]


def _handles_of(file_id: FileId, path: Path) -> tuple[int, int] | None:
    with _guard:
        if file_id not in _handles and (opened := _open(file_id, path)) is not None:
            _handles[file_id] = opened
        return _handles.get(file_id)


def _open(file_id: FileId, path: Path) -> tuple[int, int] | None:
    """Open the file and its index, if both exist. A file opened in vain stays open, for the reason above."""
    with suppress(OSError):
        index_path = path.with_name(f"{path.name}-shm")
        if index_path.exists():
            file, index = (os.open(each, os.O_RDONLY | os.O_CLOEXEC) for each in (path, index_path))
            found = os.fstat(file)
            if (found.st_dev, found.st_ino) == file_id:
                return file, index
    return None


def _close(file_id: FileId) -> None:
    with _guard:
        if not _connections[file_id]:
            for each in _handles.pop(file_id, ()):
                os.close(each)
