"""Takes away from a process what it would need to open one more file or socket."""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def no_more_files(pid: int | None = None, room: int = 0) -> Iterator[None]:
    """In this process, or the one with `pid`, only so many more files may be opened than it has open now."""
    of = pid or os.getpid()
    before = resource.prlimit(of, resource.RLIMIT_NOFILE)
    listed = list(Path(f"/proc/{of}/fd").iterdir())
    taken = {int(each.name) for each in listed if each.is_symlink()}  # not that of the listing itself
    limit = [number for number in range(before[0]) if number not in taken][room]
    resource.prlimit(of, resource.RLIMIT_NOFILE, (limit, before[1]))
    try:
        yield
    finally:
        resource.prlimit(of, resource.RLIMIT_NOFILE, before)
