"""Python's search for garbage in cycles, in a process that serves many at once: rare, and not through its modules."""

import gc
from typing import Final

YOUNG: Final = (5_000, 10)


def collect_rarely(full_after: int) -> None:
    """Leave out all that there is by now, and go through the rest less often than Python would (decision 0074).

    A full collection comes after so many of the middle ones, each of 50,000 objects more.
    """
    gc.collect()
    gc.freeze()  # decisions 0060 and 0066: modules alone take 50 to 100 ms, in which nobody is heard or answered
    gc.set_threshold(*YOUNG, full_after)
