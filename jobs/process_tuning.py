"""Garbage collection in a process that serves many calls at once: seldom, and not through its modules."""

import gc
from typing import Final

THRESHOLDS: Final = (5_000, 10, 60)
"""Decision 0006: a full collection visits all objects of ten thousand calls, and nothing else runs meanwhile."""


def collect_rarely() -> None:
    """Exclude all objects that exist now, and collect the others less often than Python would."""
    gc.collect()
    gc.freeze()  # decision 0006: modules alone take 50 to 100 ms, in which nothing is served
    gc.set_threshold(*THRESHOLDS)
