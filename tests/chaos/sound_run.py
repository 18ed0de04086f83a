"""A run without a violation, and the parts that a test changes in it."""

from datetime import UTC, datetime, timedelta
from typing import Any

from jobs.settings import Transport
from tests.chaos.clients import ReadinessReport, Seen, Wait
from tests.chaos.plan import PlannedJob
from tests.chaos.proxy import Passage
from tests.chaos.record import Record, Sight
from tests.chaos.refill import Refill

START = datetime(2026, 3, 14, 15, 9, 26, tzinfo=UTC)
JOB = "resp_1"
KEY = "key_1"
PID = 4711


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def unix(seconds: float) -> float:
    return at(seconds).timestamp()


def attempt(number: int, began: float, ended: float, outcome: str = "completed", **changes: Any) -> dict[str, Any]:
    answered = outcome == "completed"
    row = {
        "job_id": JOB,
        "number": number,
        "api_key_id": KEY,
        "worker_id": "wrk_1",
        "started_at": at(began),
        "ended_at": at(ended),
        "outcome": outcome,
        "billed": "yes" if answered else "unknown",
        "resumes": None,
        "error_kind": None if answered else "interrupted",
        "error_message": None,
        "provider_response_id": None,
        "input_tokens": 10 if answered else None,
        "output_tokens": 20 if answered else None,
        "total_tokens": 30 if answered else None,
        "cost_microusd": 500 if answered else None,
        "reconciled_at": None,
    }
    return {**row, **changes}


def call(number: int, came: float, **changes: Any) -> dict[str, Any]:
    made = {
        "client_request_id": f"{JOB}:{number}",
        "received_at": at(came).isoformat(),
        "outcome": "answered",
        "billed": True,
        "http_status": 200,
        "response_id": f"made_{number}",
        "input_tokens": 10,
        "output_tokens": 20,
        "cost_usd": 0.0005,
    }
    return {**made, **changes}


def delivered(began: float, passed: float) -> Passage:
    return Passage(b"", unix(passed), unix(passed + 0.01), None)


def sound() -> tuple[Record, Seen]:
    """One job: its first call was cut on the way, its second answered."""
    job = {
        "id": JOB,
        "api_key_id": KEY,
        "status": "completed",
        "attempt": 2,
        "max_attempts": 3,
        "on_unknown_outcome": "retry",
        "created_at": at(-0.5),
        "completed_at": at(4),
        "deadline_at": at(90),
        "cost_microusd": 500,
    }
    record = Record(
        transport=Transport.PLAIN,
        jobs={JOB: job},
        attempts={JOB: [attempt(1, 0, 1, "failed"), attempt(2, 2, 4)]},
        calls={JOB: [call(1, 0.1), call(2, 2.1)]},
        workers={"wrk_1": {"id": "wrk_1", "pid": PID, "ended_at": None}},
        passages={f"{JOB}:1": Passage(b"", unix(1), unix(1), unix(1)), f"{JOB}:2": delivered(2.1, 3.9)},
        lines=[f'worker {{"event": "complete", "job_id": "{JOB}", "status": "completed"}}'],
        sights=[Sight(KEY, {JOB}, 2)],
        refill=Refill(40, 0.5),
    )
    plan = PlannedJob(1, 0, {}, "chaos-1", cancel_after=None, delete_after=None, retry=False)
    seen = Seen(acknowledged={JOB: plan}, acknowledged_at={JOB: unix(-0.1)}, ends={JOB: ("completed", 0)}, polls=1)
    seen.timeline = [(unix(0.9), unix(1.1), "cut provider"), (unix(-9), unix(-5), "lock key")]
    seen.overdue[JOB, unix(-40)] = Wait(unix(-10), unix(0))
    seen.reported = [ready(-9), ready(-5, waiting=waits(35)), ready(-2, missing=["broker"])]
    return record, seen


def ready(asked: float, **changes: Any) -> ReadinessReport:
    return ReadinessReport(unix(asked), unix(asked + 0.1), {"missing": [], "waiting": None, **changes})


def waits(seconds: float, reason: str = "all 72 slots of the workers are taken") -> dict[str, Any]:
    return {"id": JOB, "seconds": seconds, "reason": reason}


def replace(record: Record, **changes: Any) -> None:
    record.jobs[JOB] = {**record.jobs[JOB], **changes}
