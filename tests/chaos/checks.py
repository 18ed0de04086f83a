"""The promises of the record, each checked against rows, ledger, logs and what the clients saw; every check counts."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import httpx
from sqlalchemy import RowMapping, select

from jobs.store import tables
from jobs.store.database import Database
from tests.chaos.plan import ANSWER_MARK, PROMPT_MARK
from tests.chaos.run import TERMINAL, Seen
from tests.chaos.world import World

ANSWERED: Final = frozenset(("completed", "incomplete"))
SPENT: Final = frozenset(("failed", "lost", "released", "cancelled"))
ENDING_VERBS: Final = frozenset(("complete", "cut", "fail", "abandon", "adopt", "adopt_cut", "expire"))
LATE_BY: Final = timedelta(seconds=20)
RECORDED_WITHIN: Final = timedelta(seconds=15)
TITLES: Final = {
    1: "what was acknowledged is there",
    2: "every job ends, by its deadline",
    3: "a terminal state is final, and entered once",
    4: "no answer thrown away, none bought again",
    5: "every call has a row, written before it was sent",
    6: "usage and cost are counted once per attempt",
    7: "the broker's content is disposable",
    8: "a key sees its own and nothing else",
    9: "no prompt, answer or secret in broker or logs",
}


class Violation(Exception):
    """A promise was broken, by one job or by the whole."""

    def __init__(self, promise: int, message: str, job_id: str | None = None) -> None:
        super().__init__(f"promise {promise} ({TITLES[promise]}) is broken: {message}")
        self.job_id = job_id


@dataclass
class Record:
    """All there is to know after a run."""

    jobs: dict[str, RowMapping]
    attempts: dict[str, list[RowMapping]]
    calls: dict[str, list[dict[str, Any]]]
    lines: list[str]
    stray_calls: list[dict[str, Any]]
    checked: Counter[int] = field(default_factory=Counter)
    figures: dict[str, Any] = field(default_factory=dict)


def collect(world: World) -> Record:
    """Read rows, ledger and logs."""
    database = Database(world.database_url)
    with database.read() as tx:
        jobs = {row["id"]: row for row in tx.execute(select(tables.jobs)).mappings()}
        attempts: dict[str, list[RowMapping]] = defaultdict(list)
        for row in tx.execute(select(tables.attempts).order_by(tables.attempts.c.number)).mappings():
            attempts[row["job_id"]].append(row)
    database.close()
    calls: dict[str, list[dict[str, Any]]] = defaultdict(list)
    stray = []
    for call in world.calls():
        if call["client_request_id"] is None:  # cut off before its headers were through
            stray.append(call)
        else:
            calls[call["client_request_id"].rpartition(":")[0]].append(call)
    return Record(jobs, attempts, calls, world.lines(), stray)


def check_all(world: World, record: Record, seen: Seen) -> None:
    """Check everything that can be; what was checked is counted in `record.checked`.

    Raises:
        Violation: at the first promise that does not hold.
    """
    _existence(record, seen)
    for job_id, job in record.jobs.items():
        _one_job(record, job_id, job)
    _endings_in_logs(record)
    _calls_without_jobs(record)
    _figures(record)
    _tenancy(world, record, seen)
    _secrecy(world, record, seen)


def history(record: Record, job_id: str) -> str:
    """All that is known of one job, for whoever has to find out why."""
    parts = [f"job: {dict(record.jobs[job_id])}" if job_id in record.jobs else "job: no row"]
    parts += [f"attempt: {dict(row)}" for row in record.attempts.get(job_id, ())]
    parts += [f"call: {call}" for call in record.calls.get(job_id, ())]
    parts += [f"log: {line}" for line in record.lines if job_id in line]
    return "\n".join(parts)


def _existence(record: Record, seen: Seen) -> None:
    for job_id in seen.acknowledged:
        if job_id not in record.jobs:
            raise Violation(1, f"{job_id} was acknowledged and has no row", job_id)
        record.checked[1] += 1
    if seen.open_at_the_end:
        message = f"{len(seen.open_at_the_end)} jobs never ended, such as {seen.open_at_the_end[0]}"
        raise Violation(2, message, seen.open_at_the_end[0])
    if seen.end_changes:
        raise Violation(3, seen.end_changes[0], seen.end_changes[0].split()[0])
    record.checked[3] += seen.polls
    for job_id, (status, _moment) in seen.ends.items():
        if record.jobs[job_id]["status"] != status:
            raise Violation(3, f"{job_id} was seen {status} and is {record.jobs[job_id]['status']}", job_id)
        record.checked[3] += 1
    record.checked[7] += sum(count for name, count in seen.faults.items() if "broker" in name)


def _one_job(record: Record, job_id: str, job: RowMapping) -> None:
    attempts, calls = record.attempts.get(job_id, []), record.calls.get(job_id, [])
    _ended(record, job_id, job)
    _numbered(record, job_id, job, attempts)
    _called(record, job_id, attempts, calls)
    _not_bought_again(record, job_id, job, attempts, calls)
    _booked(record, job_id, job, attempts, calls)


def _ended(record: Record, job_id: str, job: RowMapping) -> None:
    if job["status"] not in TERMINAL or job["completed_at"] is None:
        raise Violation(2, f"{job_id} is {job['status']}", job_id)
    late = job["completed_at"] - job["deadline_at"]
    if late > LATE_BY:
        raise Violation(2, f"{job_id} ended {late} after its deadline", job_id)
    record.figures["latest"] = max(record.figures.get("latest", timedelta(0)), late)
    record.checked[2] += 1


def _numbered(record: Record, job_id: str, job: RowMapping, attempts: list[RowMapping]) -> None:
    if [row["number"] for row in attempts] != list(range(1, job["attempt"] + 1)):
        raise Violation(3, f"{job_id} is at attempt {job['attempt']} and has rows {len(attempts)}", job_id)
    for row in attempts:
        if row["outcome"] is None:
            raise Violation(3, f"{job_id}:{row['number']} was never closed", job_id)
    answered = any(row["outcome"] in ANSWERED for row in attempts)
    if (job["status"] in ANSWERED) and not answered:
        raise Violation(3, f"{job_id} is {job['status']} without an answered attempt", job_id)
    record.checked[3] += 1


def _called(record: Record, job_id: str, attempts: list[RowMapping], calls: list[dict[str, Any]]) -> None:
    rows = {f"{job_id}:{row['number']}": row for row in attempts}
    for name, count in Counter(call["client_request_id"] for call in calls).items():
        if count > 1:
            raise Violation(4, f"{name} was sent {count} times", job_id)
        if name not in rows:
            raise Violation(5, f"{name} was sent without a row", job_id)
    for call in calls:
        if _moment(call["received_at"]) < rows[call["client_request_id"]]["started_at"]:
            raise Violation(5, f"{call['client_request_id']} was sent before its row was written", job_id)
        record.checked[5] += 1


def _not_bought_again(
    record: Record, job_id: str, job: RowMapping, attempts: list[RowMapping], calls: list[dict[str, Any]]
) -> None:
    answers = [row for row in attempts if row["outcome"] in ANSWERED]
    for row in answers:
        following = [each for each in attempts if each["number"] > row["number"]]
        if following and following[0]["started_at"] >= row["ended_at"] + RECORDED_WITHIN:
            raise Violation(4, f"{job_id} was bought again after attempt {row['number']} had answered", job_id)
        ended_meanwhile = job["status"] == "cancelled" or job["error_kind"] in ("lost", "job_deadline")
        ended_meanwhile = ended_meanwhile or job["error_code"] == "deadline_exceeded"
        if job["status"] not in ANSWERED and not ended_meanwhile and row["ended_at"] < job["completed_at"]:
            raise Violation(4, f"{job_id} failed although attempt {row['number']} had answered", job_id)
    outcomes = {f"{job_id}:{row['number']}": row["outcome"] for row in attempts}
    spent = [call for call in calls if outcomes[call["client_request_id"]] in SPENT]
    # an answer beyond the first is one whose attempt had been recorded as lost before it came, or the one after it
    late = max(len(answers) - 1, 0)
    if len(calls) != len(spent) + min(len(answers), 1) + late:
        raise Violation(4, f"{job_id}: {len(calls)} calls, {len(spent)} spent, {len(answers)} answers", job_id)
    record.figures["late answers"] = record.figures.get("late answers", 0) + late
    record.figures["spent calls"] = record.figures.get("spent calls", 0) + len(spent)
    record.checked[4] += len(calls)


def _booked(
    record: Record, job_id: str, job: RowMapping, attempts: list[RowMapping], calls: list[dict[str, Any]]
) -> None:
    spent = sum(row["cost_microusd"] or 0 for row in attempts)
    if (job["cost_microusd"] or 0) != spent:
        raise Violation(6, f"{job_id} says it cost {job['cost_microusd']}, its attempts {spent}", job_id)
    paid = {call["client_request_id"]: call for call in calls}
    for row in attempts:
        if row["outcome"] in ANSWERED:
            call = paid[f"{job_id}:{row['number']}"]
            told = round(call["cost_usd"] * 1_000_000)
            if abs((row["cost_microusd"] or 0) - told) > 1 or row["output_tokens"] != call["output_tokens"]:
                raise Violation(6, f"{job_id}:{row['number']} is booked unlike the provider's own bill", job_id)
            record.checked[6] += 1


def _endings_in_logs(record: Record) -> None:
    endings = Counter(job_id for verb, job_id in _logged(record) if verb in ENDING_VERBS)
    for job_id, count in endings.items():
        cancelled = record.jobs[job_id]["status"] == "cancelled"
        if count + cancelled > 1:
            raise Violation(3, f"{job_id} was ended {count + cancelled} times", job_id)
        record.checked[3] += 1


def _logged(record: Record) -> Iterator[tuple[str, str]]:
    for line in record.lines:
        if '"job_id"' in line:
            try:
                entry = json.loads(line.partition(" ")[2])
            except ValueError:  # the last words of a killed process
                continue
            # a retry that gave up is told by its verb, which is `retry` only while the job stays open
            if entry.get("status", "failed") in TERMINAL:
                yield entry["event"], entry["job_id"]


def _calls_without_jobs(record: Record) -> None:
    for job_id in record.calls:
        if job_id not in record.jobs:
            raise Violation(5, f"the provider was called for {job_id}, which has no row", job_id)


def _figures(record: Record) -> None:
    verbs = Counter(verb for verb, _job_id in _logged(record))
    record.figures["statuses"] = dict(Counter(job["status"] for job in record.jobs.values()))
    record.figures["endings"] = dict(verbs)
    rows = [row for attempts in record.attempts.values() for row in attempts]
    record.figures["outcomes"] = dict(Counter(row["outcome"] for row in rows))
    record.figures["calls"] = sum(len(calls) for calls in record.calls.values())
    billed = [call for calls in record.calls.values() for call in calls if call["billed"]]
    booked = {f"{row['job_id']}:{row['number']}" for row in rows if row["cost_microusd"]}
    record.figures["billed calls"] = len(billed)
    record.figures["billed calls whose answer never arrived"] = sum(
        call["client_request_id"] not in booked for call in billed
    )


def _tenancy(world: World, record: Record, seen: Seen) -> None:
    if seen.foreign_leaks:
        raise Violation(8, seen.foreign_leaks[0])
    record.checked[8] += seen.foreign_polls
    base = f"{world.api_urls[0]}/v1"
    with httpx.Client(headers={"Authorization": f"Bearer {world.foreign_key}"}, timeout=30) as foreign:
        for path in ("/responses", "/usage"):
            if foreign.get(f"{base}{path}").raise_for_status().json()["data"]:
                raise Violation(8, f"a foreign key sees something under {path}")
            record.checked[8] += 1
    with httpx.Client(headers={"Authorization": f"Bearer {world.api_key}"}, timeout=30) as http:
        data = http.get(f"{base}/usage").raise_for_status().json()["data"]
    told = sum(row["calls"] for row in data)
    rows = sum(len(attempts) for attempts in record.attempts.values())
    if told != rows:
        raise Violation(6, f"the usage tells of {told} calls, the ledger holds {rows}")
    record.checked[6] += 1


def _secrecy(world: World, record: Record, seen: Seen) -> None:
    if seen.broker_leaks:
        raise Violation(9, f"in Valkey: {seen.broker_leaks[0][:2000]}")
    record.checked[9] += seen.broker_messages
    for line in record.lines:
        if any(mark in line for mark in (PROMPT_MARK, ANSWER_MARK, world.api_key, world.provider_key)):
            raise Violation(9, f"in a log: {line[:2000]}")
        record.checked[9] += 1
    errors = (row["error_message"] or "" for attempts in record.attempts.values() for row in attempts)
    for message in errors:
        if PROMPT_MARK in message or world.provider_key in message:
            raise Violation(9, f"in an error's text: {message[:2000]}")
        record.checked[9] += 1


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)
