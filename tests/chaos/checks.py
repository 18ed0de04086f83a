"""The promises, each checked against rows, the simulator's call log, logs and what the clients saw."""

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any, Final

from jobs.lifecycle import Verb
from tests.chaos.billed_calls import ANSWERED, check_billed_calls
from tests.chaos.clients import TERMINAL, Seen
from tests.chaos.plan import ANSWER_MARK, PROMPT_MARK
from tests.chaos.record import (
    AT_ONCE,
    Record,
    Row,
    database_was_away,
    follows_a_silent_worker,
    lives,
    logged,
    moment,
    request_id_of,
    was_given_up,
)
from tests.chaos.standstill import check_standstill
from tests.chaos.verdict import Violation

ENDING_VERBS: Final = frozenset(
    (Verb.COMPLETE, Verb.COMPLETE_PARTIAL, Verb.FAIL, Verb.ABANDON, Verb.ADOPT, Verb.ADOPT_PARTIAL, Verb.EXPIRE)
)
LATE_BY: Final = timedelta(seconds=20)
REFILLED_WITHIN: Final = 2.0


def check_all(record: Record, seen: Seen) -> None:
    """Check every promise and count the checks in `record.checked`.

    Raises:
        Violation: a promise is broken; the first one found is raised.
    """
    _existence(record, seen)
    _what_clients_saw(record, seen)
    for job_id, job in record.jobs.items():
        _ended(record, job_id, job)
        _numbered(record, job_id, job)
        _cost_adds_up(record, job_id, job)
    for job_id in record.attempts.keys() | record.calls.keys():
        _called(record, job_id)
        _booked(record, job_id)
    check_billed_calls(record, seen)
    check_standstill(record, seen)
    _endings_in_logs(record, seen)
    _broker(record, seen)
    _tenancy(record, seen)
    _secrecy(record, seen)
    _figures(record)


def _existence(record: Record, seen: Seen) -> None:
    for job_id in seen.acknowledged:
        if (job_id in record.jobs) == (job_id in seen.deleted_at):
            there = "is there" if job_id in record.jobs else "is not there"
            raise Violation(1, f"{job_id} was acknowledged, deleted: {job_id in seen.deleted_at}, and {there}", job_id)
        record.checked[1] += 1
    ids: dict[str, str] = {}
    for job_id, job in seen.acknowledged.items():
        key = job.idempotency_key
        if key is not None and ids.setdefault(key, job_id) != job_id:
            raise Violation(1, f"one Idempotency-Key made {ids[key]} and {job_id}", job_id)
        record.checked[1] += key is not None


def _what_clients_saw(record: Record, seen: Seen) -> None:
    broken = [line for line in record.lines if '"request failed"' in line]
    if broken:
        raise Violation(1, f"an API could not cope: {broken[0]}")
    if seen.open_at_the_end:
        message = f"{len(seen.open_at_the_end)} jobs never ended, such as {seen.open_at_the_end[0]}"
        raise Violation(2, message, seen.open_at_the_end[0])
    if seen.end_changes:
        job_id, message = seen.end_changes[0]
        raise Violation(3, f"{job_id} {message}", job_id)
    record.checked[3] += seen.polls
    for job_id, (status, _moment) in seen.ends.items():
        if record.jobs[job_id]["status"] != status:
            raise Violation(3, f"{job_id} was seen {status} and is {record.jobs[job_id]['status']}", job_id)
        record.checked[3] += 1


def _ended(record: Record, job_id: str, job: Row) -> None:
    if job["status"] not in TERMINAL or job["completed_at"] is None:
        raise Violation(2, f"{job_id} is {job['status']}", job_id)
    late = job["completed_at"] - job["deadline_at"]
    if late > LATE_BY + database_was_away(record, job["deadline_at"], job["completed_at"]):
        raise Violation(2, f"{job_id} ended {late} after its deadline", job_id)
    record.figures["latest after its deadline"] = max(record.figures.get("latest after its deadline", late), late)
    record.checked[2] += 1


def _numbered(record: Record, job_id: str, job: Row) -> None:
    attempts = record.attempts.get(job_id, [])
    if [row["number"] for row in attempts] != list(range(1, job["attempt"] + 1)):
        raise Violation(3, f"{job_id} is at attempt {job['attempt']} and has rows {len(attempts)}", job_id)
    answered = any(row["outcome"] in ANSWERED for row in attempts)
    if (job["status"] in ANSWERED) and not answered:
        raise Violation(3, f"{job_id} is {job['status']} without an answered attempt", job_id)
    for row in attempts:  # an end is dated when its call ended, which may be long before it could be written
        if row["started_at"] > job["completed_at"] + AT_ONCE and not follows_a_silent_worker(record, row):
            raise Violation(3, f"{job_id} was called again after it had ended", job_id)
    record.checked[3] += 1


def _called(record: Record, job_id: str) -> None:
    rows = {request_id_of(row): row for row in record.attempts.get(job_id, ())}
    calls = record.calls.get(job_id, [])
    for name, count in Counter(call["client_request_id"] for call in calls).items():
        if count > 1:
            raise Violation(4, f"{name} was sent {count} times", job_id)
        if name not in rows:
            raise Violation(5, f"{name} was sent without a row", job_id)
    for call in calls:
        if moment(call["received_at"]) < rows[call["client_request_id"]]["started_at"]:
            raise Violation(5, f"{call['client_request_id']} was sent before its row was written", job_id)
        record.checked[5] += 1
    for name, row in rows.items():
        if row["outcome"] is None:
            raise Violation(5, f"{name} was never closed", job_id)
        record.checked[5] += 1


def _cost_adds_up(record: Record, job_id: str, job: Row) -> None:
    spent = sum(row["cost_microusd"] or 0 for row in record.attempts.get(job_id, ()))
    if (job["cost_microusd"] or 0) != spent:
        raise Violation(6, f"{job_id} says it cost {job['cost_microusd']}, its attempts {spent}", job_id)
    record.checked[6] += 1


def _booked(record: Record, job_id: str) -> None:
    """Check that an attempt's cost is what the provider charged for its call, or for the call that it resumed."""
    calls = record.calls.get(job_id, [])
    by_request = {call["client_request_id"]: call for call in calls}
    by_response = {call["response_id"]: call for call in calls if call["response_id"] is not None}
    reported: Counter[str] = Counter()
    rows = record.attempts.get(job_id, ())
    fetched = {row["resumes"] for row in rows if row["resumes"] is not None and row["cost_microusd"]}
    for row in rows:
        call = by_response.get(row["resumes"]) or by_request.get(request_id_of(row))
        if row["cost_microusd"]:
            if call is None:
                raise Violation(6, f"{request_id_of(row)} cost something and was never called", job_id)
            reported[call["client_request_id"]] += row["cost_microusd"]
        if row["outcome"] in ANSWERED and row["total_tokens"] is not None and call is not None:
            _same_bill(job_id, row, call)
        elif row["reconciled_at"] is not None and row["provider_response_id"] not in fetched:
            if (row["billed"] == "yes") != bool(call is not None and call["billed"]):
                raise Violation(6, f"{request_id_of(row)} was reconciled to {row['billed']}, the bill differs", job_id)
            record.figures["reconciled"] = record.figures.get("reconciled", 0) + 1
        record.checked[6] += 1
    for request_id, microusd in reported.items():
        if abs(microusd - round(by_request[request_id]["cost_usd"] * 1_000_000)) > 1:
            raise Violation(6, f"{request_id} is booked with {microusd}, unlike the provider's own bill", job_id)


def _same_bill(job_id: str, row: Row, call: Mapping[str, Any]) -> None:
    if row["output_tokens"] != call["output_tokens"] or row["input_tokens"] != call["input_tokens"]:
        raise Violation(6, f"{request_id_of(row)} counts other tokens than the provider", job_id)


def _endings_in_logs(record: Record, seen: Seen) -> None:
    endings: Counter[str] = Counter()
    for entry, job_id in logged(record):
        # a retry that gave up is told by its verb, which is `retry` only while the job stays open
        endings[job_id] += entry["event"] in ENDING_VERBS and entry.get("status", "failed") in TERMINAL
    for job_id, count in endings.items():
        job = record.jobs.get(job_id)
        ends = count + (job is not None and job["status"] == "cancelled")
        if ends > 1 + (job_id in seen.retried_at):
            raise Violation(3, f"{job_id} was ended {ends} times", job_id)
        record.checked[3] += 1


def _broker(record: Record, seen: Seen) -> None:
    for job_id, acknowledged_at in seen.acknowledged_at.items():
        # acknowledged while the broker was away, or rung just before it forgot everything
        if any(begun - 1 <= acknowledged_at <= ended for begun, ended in record.broker_hurt):
            job = record.jobs.get(job_id)
            if job is not None and job["status"] not in TERMINAL:
                raise Violation(7, f"{job_id} was submitted while the broker was hurt, and is {job['status']}", job_id)
            record.checked[7] += 1
            record.figures["acknowledged while the broker was hurt"] = record.checked[7]
    for job_id, enqueued_at in seen.needless_messages:
        job = record.jobs.get(job_id)
        enqueued = datetime.fromtimestamp(enqueued_at, UTC)
        if job is not None and job_id not in seen.retried_at and job["completed_at"] <= enqueued:
            rows = record.attempts.get(job_id, ())
            if any(row["started_at"] > enqueued and not follows_a_silent_worker(record, row) for row in rows):
                raise Violation(7, f"{job_id} had ended, was rung for nothing, and was called again", job_id)
        record.checked[7] += 1
    if seen.obeyed:
        raise Violation(7, f"a worker obeyed a stranger: {seen.obeyed[0]}")
    record.checked[7] += seen.refusals
    for job_id in record.attempts:
        for life in lives(record, seen, job_id):
            _one_call_at_a_time(record, job_id, life)
    if record.refill is not None:
        if record.refill.seconds > REFILLED_WITHIN:
            raise Violation(7, f"slots stood free for {record.refill.seconds:.1f} s after the broker was flushed")
        record.checked[7] += record.refill.jobs


def _one_call_at_a_time(record: Record, job_id: str, life: list[Row]) -> None:
    """Check that an attempt begins after the one before has ended, or its worker was marked dead."""
    for earlier, later in pairwise(life):
        if later["started_at"] < earlier["ended_at"] and not was_given_up(record, earlier, later["started_at"]):
            raise Violation(7, f"{job_id} was called twice at a time: {earlier['number']}, {later['number']}", job_id)


def _tenancy(record: Record, seen: Seen) -> None:
    if seen.foreign_leaks:
        raise Violation(8, seen.foreign_leaks[0], seen.foreign_leaks[0].split()[0])
    record.checked[8] += seen.foreign_polls
    for sight in record.sights:
        own = {job_id for job_id, job in record.jobs.items() if job["api_key_id"] == sight.key_id}
        if sight.listed != own:
            strange = min(sight.listed ^ own)
            raise Violation(8, f"{sight.key_id} is listed what is not its own, or not all: {strange}", strange)
        record.checked[8] += len(own)
        rows = sum(row["api_key_id"] == sight.key_id for each in record.attempts.values() for row in each)
        if sight.calls != rows:
            raise Violation(6, f"the usage of {sight.key_id} counts {sight.calls} calls, the rows {rows}")
        record.checked[6] += 1


def _secrecy(record: Record, seen: Seen) -> None:
    if seen.broker_leaks:
        raise Violation(9, f"in the broker: {seen.broker_leaks[0][:2000]}")
    record.checked[9] += seen.broker_commands
    marks = (PROMPT_MARK, ANSWER_MARK, *record.secrets)
    for line in record.lines:
        if any(mark in line for mark in marks):
            raise Violation(9, f"in a log: {line[:2000]}")
        record.checked[9] += 1
    errors = (row["error_message"] or "" for rows in record.attempts.values() for row in rows)
    for message in errors:
        if any(mark in message for mark in marks):
            raise Violation(9, f"in an error's text: {message[:2000]}")
        record.checked[9] += 1


def _figures(record: Record) -> None:
    verbs = Counter(entry["event"] for entry, _job_id in logged(record) if entry["event"] in ENDING_VERBS)
    rows = [row for attempts in record.attempts.values() for row in attempts]
    record.figures["statuses"] = dict(Counter(job["status"] for job in record.jobs.values()))
    record.figures["endings"] = dict(verbs)
    record.figures["outcomes of attempts"] = dict(Counter(row["outcome"] for row in rows))
    record.figures["calls"] = sum(len(calls) for calls in record.calls.values())
