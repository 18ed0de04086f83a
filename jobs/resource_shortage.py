"""Shortages of this process: files, memory, threads. They are not failures of a call."""

import errno
import os
import socket
from collections.abc import Callable, Iterator
from itertools import repeat
from time import sleep
from typing import Final, TypeVar

_SHORT: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
_NO_THREAD: Final = "can't start new thread"
"""Python's message; there is no exception class for it."""
_TRIES: Final = 600
_AGAIN_SECONDS: Final = 0.5

T = TypeVar("T")


def shortage_of(error: BaseException) -> str | None:
    """Return the name of the resource whose shortage caused `error`; None for any other cause."""
    for each in causes(error):
        match each:
            case socket.gaierror():  # a resolver that cannot open its files reports a plain failure
                return _files()
            case OSError(errno=number) if number in _SHORT:
                return os.strerror(number).lower()
            case MemoryError():
                return os.strerror(errno.ENOMEM).lower()
            case RuntimeError() if _NO_THREAD in str(each):
                return "no more threads"
    return None


def once_it_fits(do: Callable[[], T]) -> T:
    """Call `do`, and repeat it for five minutes while this process is short of a resource.

    For work that cannot be redone later, such as reading an answer that was billed. Raises the errors of `do`.
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
    """Yield `error` and its causes, outermost first."""
    each: BaseException | None = error
    while each is not None:
        yield each
        each = each.__cause__ or each.__context__


def _files() -> str | None:
    """Return the reason why this process cannot open one more file now; None if it can."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        return shortage_of(error)
    return None
