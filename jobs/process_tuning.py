"""Python's search for garbage in cycles, in a process that serves many at once: rare, and not through its modules."""

import gc
from typing import Final

THRESHOLDS: Final = (5_000, 10, 60)
"""Decision 0007: a full collection goes through all that ten thousand calls hold, and nothing else runs meanwhile."""


def collect_rarely() -> None:
    """Leave out all that there is by now, and go through the rest less often than Python would."""
    gc.collect()
    gc.freeze()  # decision 0007: modules alone take 50 to 100 ms, in which nobody is heard or answered
    gc.set_threshold(*THRESHOLDS)
