"""What this process itself is short of: files, memory, threads. Nobody's call has failed because of that."""

import errno
import os
import socket
from collections.abc import Iterator
from typing import Final

_SHORT: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
_NO_THREAD: Final = "can't start new thread"
"""What Python itself says, of which it has no exception of its own."""


def shortage_of(error: BaseException) -> str | None:
    """What was lacking where `error` arose, in words; None when it arose from something else."""
    for each in causes(error):
        match each:
            case socket.gaierror():  # a resolver that cannot open its files says no more than that it failed
                return _files()
            case OSError(errno=number) if number in _SHORT:
                return os.strerror(number).lower()
            case MemoryError():
                return os.strerror(errno.ENOMEM).lower()
            case RuntimeError() if _NO_THREAD in str(each):
                return "no more threads"
    return None


def causes(error: BaseException) -> Iterator[BaseException]:
    """`error` and what it was raised from, outermost first."""
    each: BaseException | None = error
    while each is not None:
        yield each
        each = each.__cause__ or each.__context__


def _files() -> str | None:
    """What keeps this process from opening one more file just now."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        return shortage_of(error)
    return None
