"""Promise 4, call by call: each billed call is booked with its answer, or there is evidence why it could not be.

The simulator's call log knows which calls were answered in full and billed. The proxy knows whether the answer
reached a process that still listened, and the run knows when it killed that process. What reached a worker that lived
has to be booked; what was never paid, or was spoilt, cut off or orphaned, has to be recorded as failed, lost, released
or cancelled. So the calls paid beyond one per job are exactly those.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import timedelta
from enum import StrEnum
from itertools import pairwise
from typing import Any, Final

from jobs.errors import ErrorKind
from jobs.retry import RULES, Repeat
from jobs.settings import Transport
from tests.chaos.clients import Seen
from tests.chaos.record import AT_ONCE, Record, Row, lives, request_id_of, was_given_up
from tests.chaos.verdict import Violation

ANSWERED: Final = frozenset(("completed", "incomplete"))
UNANSWERED: Final = frozenset(("failed", "lost", "released", "cancelled"))
ENDED_HERE: Final = frozenset(("released", "cancelled"))
OUT_OF_COUNT: Final = frozenset(kind for kind, rule in RULES.items() if rule.repeat is Repeat.UNCOUNTED)
RECORDED_WITHIN: Final = 2.0
RECORDED_WITHIN_WHEN_HURT: Final = 20.0  # the database was away: recording is tried again, every five seconds at most
KEPT_WITHIN: Final = 8.0  # what cannot be recorded for five seconds stands in a file, and its worker's end loses it not
CROSSED_WITHIN: Final = 1.5


class Fate(StrEnum):
    """Fate of a call that the provider billed."""

    RECORDED = "recorded with their answer"
    SPOILT = "spoilt by the provider"
    LEFT = "left by us before the answer came"
    CUT = "cut on the way"
    DIED = "answered to a worker that was killed before it could record"
    CROSSED = "answered in the moment in which we ended them"


def check_billed_calls(record: Record, seen: Seen) -> None:
    """Check every call and every job that had one."""
    fates: Counter[Fate] = Counter()
    repeated = 0
    for job_id, calls in record.calls.items():
        for call in calls:
            if call["billed"]:
                fates[_fate(record, job_id, call)] += 1
            record.checked[4] += 1
    for job_id in record.attempts:
        for life in lives(record, seen, job_id):
            _not_called_again(record, job_id, life)
            _asked_for(record, job_id, life)
            repeated += _billed_once(record, job_id, life)
        _answer_was_kept(record, job_id)
        record.checked[4] += 1
    if record.left_files:
        raise Violation(4, f"the end of a call was left in a file for good: {record.left_files[0]}")
    record.figures["paid calls"] = sum(fates.values())
    record.figures |= {f"paid calls {fate}": count for fate, count in sorted(fates.items())}
    record.figures["paid calls beyond one per job"] = repeated


def _fate(record: Record, job_id: str, call: Mapping[str, Any]) -> Fate:
    """Return the fate of one billed call.

    Raises:
        Violation: its answer reached a living worker and is not booked.
    """
    rows = record.attempts[job_id]
    buyer = next(row for row in rows if request_id_of(row) == call["client_request_id"])
    keepers = [buyer, *(row for row in rows if row["resumes"] is not None and row["resumes"] == call["response_id"])]
    if any(_holds_answer(row) for row in keepers):
        return Fate.RECORDED
    for row in keepers:
        if row["outcome"] not in UNANSWERED:
            raise Violation(4, f"{request_id_of(row)} was paid for and is recorded as {row['outcome']}", job_id)
    if call["outcome"] != "answered":
        return Fate.SPOILT if call["outcome"] == "dropped" else Fate.LEFT
    if record.transport is Transport.BACKGROUND:
        return _fate_by_id(record, job_id, call, keepers)
    return _fate_on_the_way(record, job_id, buyer)


def _holds_answer(row: Row) -> bool:
    paid_for_nothing = row["outcome"] == "failed" and row["error_kind"] == ErrorKind.EMPTY_OUTPUT
    return row["outcome"] in ANSWERED or paid_for_nothing


def _fate_on_the_way(record: Record, job_id: str, row: Row) -> Fate:
    passage = record.passages[request_id_of(row)]
    if passage.was_broken:
        return Fate.CUT
    if not passage.was_delivered or passage.passed_at is None:
        return Fate.LEFT
    died_at = _death(record, row)
    if died_at is not None and _awake(record, row, passage.passed_at, died_at) <= _time_to_keep(
        record, passage.passed_at, died_at
    ):
        return Fate.DIED
    ended_at = row["ended_at"].timestamp()
    ended_here = row["outcome"] in ENDED_HERE or row["error_kind"] == ErrorKind.CALL_DEADLINE
    if ended_here and abs(ended_at - passage.passed_at) <= CROSSED_WITHIN:
        return Fate.CROSSED
    reported = f"{row['outcome']} ({row['error_kind']})"
    raise Violation(4, f"{request_id_of(row)} was answered in full to a worker that lived, and is {reported}", job_id)


def _fate_by_id(record: Record, job_id: str, call: Mapping[str, Any], keepers: list[Row]) -> Fate:
    """Return the fate of a response that was made at the provider and never fetched."""
    buyer, last = keepers[0], keepers[-1]
    if buyer["provider_response_id"] is None:
        return _fate_on_the_way(record, job_id, buyer)
    gave_up = last["outcome"] == "cancelled" or last["error_kind"] == ErrorKind.CALL_DEADLINE
    job = record.jobs.get(job_id)
    over = job is None or (job["status"] not in ANSWERED and last["number"] == job["attempt"])
    if gave_up or over:
        return Fate.CROSSED
    reported = f"{last['outcome']} ({last['error_kind']})"
    raise Violation(4, f"{call['response_id']} was bought, its id kept, and it was given up as {reported}", job_id)


def _death(record: Record, row: Row) -> float | None:
    worker = record.workers.get(row["worker_id"])
    return None if worker is None else record.deaths.get(worker["pid"])


def _awake(record: Record, row: Row, begun: float, ended: float) -> float:
    """Return for how many seconds of a span the worker of a call was not frozen."""
    worker = record.workers.get(row["worker_id"])
    spans = [(each.begun, each.ended) for each in record.freezes if worker is not None and each.pid == worker["pid"]]
    return ended - begun - sum(_overlap((begun, ended), each) for each in spans)


def _overlap(one: tuple[float, float], other: tuple[float, float]) -> float:
    return max(0.0, min(one[1], other[1]) - max(one[0], other[0]))


def _time_to_keep(record: Record, begun: float, ended: float) -> float:
    """Return for how many seconds a worker may hold an answer in memory only."""
    hurt = [*record.database_hurt, *((each.begun, each.ended) for each in record.locks)]
    return KEPT_WITHIN if _was_hurt(hurt, begun, ended) else RECORDED_WITHIN


def _max_wait(record: Record, job_id: str, begun: float, ended: float) -> float:
    """Return the seconds within which an answer must be recorded, while its job can still be ended by others."""
    locked = sum(_overlap((begun, ended), (each.begun, each.ended)) for each in record.locks if job_id in each.rows)
    hurt = _was_hurt(record.database_hurt, begun, ended)
    return locked + (RECORDED_WITHIN_WHEN_HURT if hurt else RECORDED_WITHIN)


def _was_hurt(hurt: Iterable[tuple[float, float]], begun: float, ended: float) -> bool:
    return any(since <= ended and begun - RECORDED_WITHIN <= until for since, until in hurt)


def _not_called_again(record: Record, job_id: str, life: list[Row]) -> None:
    """Check that no call follows an answer, unless its worker had been marked dead by then."""
    for earlier, later in pairwise(life):
        if _holds_answer(earlier) and not was_given_up(record, earlier, later["started_at"]):
            raise Violation(4, f"{job_id} was called again after attempt {earlier['number']} had answered", job_id)


def _asked_for(record: Record, job_id: str, life: list[Row]) -> None:
    """Check that a job has no more failures than its client allows, and no call that the client ruled out."""
    job = record.jobs.get(job_id)
    if job is None:
        return
    counted = [row for row in life if _counts(row)]
    if len(counted) > job["max_attempts"]:
        raise Violation(4, f"{job_id} failed {len(counted)} times, and may {job['max_attempts']} times", job_id)
    if job["on_unknown_outcome"] == "fail":
        for earlier, later in pairwise(life):
            if not _is_known(earlier, later):
                raise Violation(4, f"{job_id} was called again after {request_id_of(earlier)}, whatever came", job_id)
    record.checked[4] += 1


def _counts(row: Row) -> bool:
    if row["reconciled_at"] is not None and row["billed"] == "no":
        return False  # the provider's own log says that nothing ran, and such a call may be repeated freely
    if row["outcome"] == "failed":
        return row["error_kind"] not in OUT_OF_COUNT
    return row["outcome"] == "lost" and row["provider_response_id"] is None


def _is_known(row: Row, following: Row) -> bool:
    """Return whether a call certainly was not billed, or only resumes another."""
    if row["billed"] == "no" or following["resumes"] is not None:
        return True
    kind = row["error_kind"]
    return kind is not None and RULES[ErrorKind(kind)].repeat is Repeat.COUNTED


def _billed_once(record: Record, job_id: str, life: list[Row]) -> int:
    """Return how many calls beyond the first were billed; all but one must be recorded as unanswered, or be late."""
    names = {request_id_of(row) for row in life}
    paid = [call for call in record.calls.get(job_id, ()) if call["billed"] and call["client_request_id"] in names]
    answers = [row for row in life if _holds_answer(row)]
    late = [
        row
        for row, following in pairwise(life)
        if _holds_answer(row) and was_given_up(record, row, following["started_at"])
    ]
    if len(answers) - len(late) > 1:
        raise Violation(4, f"{job_id} has {len(answers)} answers, {len(late)} of workers given up", job_id)
    job = record.jobs.get(job_id)
    # a provider may take money for a failure of its own making; that it failed is known, and such a call is repeated
    known = {request_id_of(row) for row in life if row["error_kind"] == ErrorKind.ANSWER_FAILED}
    unknown = [call for call in paid if call["client_request_id"] not in known]
    if job is not None and job["on_unknown_outcome"] == "fail" and len(unknown) > 1:
        raise Violation(4, f"{job_id} was to be called once whatever came, and was paid {len(unknown)} times", job_id)
    record.figures["late answers"] = record.figures.get("late answers", 0) + len(late)
    return max(len(paid) - 1, 0)


def _answer_was_kept(record: Record, job_id: str) -> None:
    """Check that an answer which came while the job was open is kept, unless its worker was marked dead first."""
    job = record.jobs.get(job_id)
    if job is None or job["status"] in ANSWERED:
        return
    for row in record.attempts[job_id]:
        slack = _max_wait(record, job_id, row["ended_at"].timestamp(), job["completed_at"].timestamp())
        open_then = row["ended_at"] + timedelta(seconds=slack) < job["completed_at"]
        given_up = was_given_up(record, row, job["completed_at"] + AT_ONCE)
        if row["outcome"] in ANSWERED and open_then and not given_up:
            raise Violation(4, f"{job_id} is {job['status']} although attempt {row['number']} had answered", job_id)
