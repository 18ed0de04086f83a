"""Promise 10: every `/readyz` reports, with a reason, a job that has been due for over 30 s.

An answer counts for a wait if it was requested after the wait had become long, and came while the row was still
queued. A living API answers whatever hangs behind it, so a long silence of both APIs is a breach as well.
"""

from itertools import pairwise
from typing import Any, Final

from tests.chaos.clients import STALE, Seen
from tests.chaos.record import Record
from tests.chaos.verdict import Violation

UNTOLD_FOR: Final = 20.0
"""Longer than both APIs are ever frozen, stopped or starting at the same time."""


def check_standstill(record: Record, seen: Seen) -> None:
    """Check every wait of over 30 s."""
    longest = 0.0
    for (job_id, due_at), wait in seen.overdue.items():
        if wait.last <= wait.long_at:
            continue
        reported = seen.reports_during(wait)
        for each in reported:
            if not _gives_a_reason(each.body, each.asked_at - due_at - STALE):
                waited = each.asked_at - due_at
                raise Violation(10, f"{job_id} was due for {waited:.0f} s, and /readyz said {each.body}", job_id)
            record.checked[10] += 1
        moments = sorted([wait.long_at, *(each.answered_at for each in reported), wait.last])
        untold = max(later - earlier for earlier, later in pairwise(moments))
        if untold > UNTOLD_FOR:
            raise Violation(10, f"{job_id} waited for {untold:.0f} s while no /readyz answered", job_id)
        longest = max(longest, untold)
    record.figures["jobs due for over 30 s"] = len({job_id for job_id, _ in seen.overdue})
    record.figures["longest of that without an answer of /readyz"] = f"{longest:.1f} s"


def _gives_a_reason(body: dict[str, Any], waited: float) -> bool:
    """Return whether an answer names something missing, or a job that waits at least as long, with a reason."""
    waiting = body["waiting"]
    return bool(body["missing"]) or (waiting is not None and bool(waiting["reason"]) and waiting["seconds"] >= waited)
