"""Limits on the files and sockets that a process can open."""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count, islice
from pathlib import Path


@contextmanager
def no_more_files(pid: int | None = None, room: int = 0) -> Iterator[None]:
    """Let this process, or the one with `pid`, open only `room` more files than are open now."""
    of = pid or os.getpid()
    listed = list(Path(f"/proc/{of}/fd").iterdir())
    taken = {int(each.name) for each in listed if each.is_symlink()}  # without the listing itself
    free = (number for number in count() if number not in taken)
    with file_limit(of, next(islice(free, room, None))):
        yield


@contextmanager
def file_limit(pid: int, limit: int) -> Iterator[None]:
    """Let the process open only file numbers below `limit`, even after others are closed."""
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
