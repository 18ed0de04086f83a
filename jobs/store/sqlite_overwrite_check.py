"""Whether anything but SQLite has written to its file, as a backup does that is copied over a running database.

With write-ahead logging SQLite itself writes to the file in checkpoints alone, and notes in its index (`-shm`) that one
is about to begin, and its end: https://sqlite.org/walformat.html. So a header that has changed with no checkpoint since
the last look is somebody else's. A touched file is not, as nothing but its time has changed.
"""

import os
import struct
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Final

Place = tuple[int, int]
"""A file's device and number."""

HEADER_BYTES: Final = 100
INDEX_BYTES: Final = 136
_SALTS, _BACKFILLED, _ATTEMPTED = slice(32, 40), slice(96, 100), slice(128, 132)
_NUMBER: Final = struct.Struct("=I")


@dataclass(frozen=True)
class _Checkpoints:
    """How far the log has got into the file. Another `generation` began the log anew once all of it had."""

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


class Contents:
    """What the file at a path has in it, as of the last look."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._looking = Lock()
        self._seen: _Seen | None = None
        self._place: Place | None = None

    def were_overwritten(self, found: os.stat_result) -> bool:
        """Whether somebody else has written to the file, as `found` just now, since the last look."""
        with self._looking:  # whose looks came between would take an older header for a change
            return self._look((found.st_dev, found.st_ino), (found.st_mtime_ns, found.st_size))

    def _look(self, place: Place, written_at: tuple[int, int]) -> bool:
        if place != self._place:
            self._place, self._seen = place, None
        handles = _handles_of(place, self._path)
        if handles is None:  # there is no index before somebody has read
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

    def let_go(self) -> None:
        """Close what this look has opened, once no connection of this process is open any more."""
        if self._place is not None:
            _close(self._place)
        self._place = self._seen = None


# Whoever closes a file loses the locks that its whole process holds on it, SQLite's among them. So what is opened here
# is shared, and closed only when the process has no connection to the file.
_guard: Final = Lock()
_handles: Final[dict[Place, tuple[int, int]]] = {}
_connections: Final[Counter[Place]] = Counter()


def count_connection(place: Place, by: int) -> None:
    """One more, or one fewer, is open to the file at `place`."""
    with _guard:
        _connections[place] += by
        if not _connections[place]:
            del _connections[place]


def _handles_of(place: Place, path: Path) -> tuple[int, int] | None:
    with _guard:
        if place not in _handles and (opened := _open(place, path)) is not None:
            _handles[place] = opened
        return _handles.get(place)


def _open(place: Place, path: Path) -> tuple[int, int] | None:
    """The file and its index, if both are there; what is opened and is of no use stays open."""
    with suppress(OSError):
        index_path = path.with_name(f"{path.name}-shm")
        if index_path.exists():
            file, index = (os.open(each, os.O_RDONLY | os.O_CLOEXEC) for each in (path, index_path))
            found = os.fstat(file)
            if (found.st_dev, found.st_ino) == place:
                return file, index
    return None


def _close(place: Place) -> None:
    with _guard:
        if not _connections[place]:
            for each in _handles.pop(place, ()):
                os.close(each)
