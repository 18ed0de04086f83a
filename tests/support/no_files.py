"""Takes away from a process what it would need to open one more file or socket."""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count, islice
from pathlib import Path


@contextmanager
def no_more_files(pid: int | None = None, room: int = 0) -> Iterator[None]:
    """In this process, or the one with `pid`, only so many more files may be opened than it has open now."""
    of = pid or os.getpid()
    listed = list(Path(f"/proc/{of}/fd").iterdir())
    taken = {int(each.name) for each in listed if each.is_symlink()}  # not that of the listing itself
    free = (number for number in count() if number not in taken)
    with file_limit(of, next(islice(free, room, None))):
        yield


@contextmanager
def file_limit(pid: int, limit: int) -> Iterator[None]:
    """Files below `limit` alone may be opened by the process, also where others that are open now are closed."""
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
