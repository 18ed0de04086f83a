"""What this process itself is short of: files, memory, threads. Nobody's call has failed because of that."""

import errno
import os
import socket
from collections.abc import Callable, Iterator
from itertools import repeat
from time import sleep
from typing import Final, TypeVar

_SHORT: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
_NO_THREAD: Final = "can't start new thread"
"""What Python itself says, of which it has no exception of its own."""
_TRIES: Final = 600
_AGAIN_SECONDS: Final = 0.5

T = TypeVar("T")


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


def once_it_fits(do: Callable[[], T]) -> T:
    """Do what lacks nothing but room in this process; again, for five minutes, while that is short.

    For what cannot be had a second time, such as the reading of an answer that was paid for. Raises what `do` raises.
    """
    for _ in repeat(None, _TRIES):
        try:
            return do()
        except Exception as error:
            if shortage_of(error) is None:
                raise
        sleep(_AGAIN_SECONDS)
    return do()


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
