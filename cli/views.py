"""The server's answers in the form that the commands print. Missing fields are tolerated."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

TERMINAL = frozenset({"completed", "incomplete", "failed", "cancelled"})


@dataclass(frozen=True)
class ResponseView:
    """A response. `cost_usd` is None while unknown."""

    id: str
    status: str
    model: str
    created_at: datetime
    completed_at: datetime | None
    text: str
    error: str | None
    incomplete_reason: str | None
    attempt: int
    max_attempts: int | None
    queue_position: int | None
    waiting_for: str | None
    last_problem: str | None
    input_tokens: int
    output_tokens: int
    total_tokens: int
    cost_usd: float | None

    @property
    def is_terminal(self) -> bool:
        """True if the response has ended."""
        return self.status in TERMINAL

    @classmethod
    def of(cls, body: dict[str, Any]) -> "ResponseView":
        """Parse a response object."""
        ours = object_of(body.get("backburner"))
        usage = object_of(body.get("usage"))
        error = object_of(body.get("error"))
        problem = object_of(ours.get("error"))
        max_attempts, position = ours.get("max_attempts"), ours.get("queue_position")
        cost = ours.get("cost_usd")
        return cls(
            id=str(body.get("id", "")),
            status=str(body.get("status", "")),
            model=str(body.get("model", "")),
            created_at=time_of(body.get("created_at")) or datetime.now(UTC),
            completed_at=time_of(body.get("completed_at")),
            text=_text_of(body.get("output")),
            error=f"{error.get('message')} ({error.get('code')})" if error else None,
            incomplete_reason=object_of(body.get("incomplete_details")).get("reason"),
            attempt=int(ours.get("attempt") or 0),
            max_attempts=None if max_attempts is None else int(max_attempts),
            queue_position=None if position is None else int(position),
            waiting_for=None if ours.get("waiting_for") is None else str(ours["waiting_for"]),
            last_problem=str(problem.get("message") or problem.get("kind")) if problem else None,
            input_tokens=int(usage.get("input_tokens") or 0),
            output_tokens=int(usage.get("output_tokens") or 0),
            total_tokens=int(usage.get("total_tokens") or 0),
            cost_usd=None if cost is None else float(cost),
        )


@dataclass(frozen=True)
class UsageView:
    """The usage of one model by one key on one day."""

    day: str
    model: str
    key: str
    calls: int
    input_tokens: int
    output_tokens: int
    total_tokens: int
    cost_usd: float
    calls_of_unknown_cost: int

    @classmethod
    def of(cls, row: dict[str, Any]) -> "UsageView":
        """Parse a row of `GET /usage`."""
        return cls(
            day=str(row.get("day", "")),
            model=str(row.get("model", "")),
            key=str(row.get("api_key_name") or row.get("api_key_id") or ""),
            calls=int(row.get("calls") or 0),
            input_tokens=int(row.get("input_tokens") or 0),
            output_tokens=int(row.get("output_tokens") or 0),
            total_tokens=int(row.get("total_tokens") or 0),
            cost_usd=float(row.get("cost_usd") or 0),
            calls_of_unknown_cost=int(row.get("calls_of_unknown_cost") or 0),
        )


@dataclass(frozen=True)
class AttemptView:
    """A call to the provider. `body` is what it received instead of an answer, if requested and kept."""

    number: int
    started_at: datetime
    ended_at: datetime | None
    outcome: str
    http_status: int | None
    billed: str
    total_tokens: int
    cost_usd: float | None
    problem: str | None
    body: str | None

    @classmethod
    def of(cls, row: dict[str, Any]) -> "AttemptView":
        """Parse a row of `GET /responses/{id}/attempts`."""
        error, cost = object_of(row.get("error")), row.get("cost_usd")
        return cls(
            number=int(row.get("number") or 0),
            started_at=time_of(row.get("started_at")) or datetime.fromtimestamp(0, UTC),
            ended_at=time_of(row.get("ended_at")),
            outcome=str(row.get("outcome") or "running"),
            http_status=row.get("http_status"),
            billed=str(row.get("billed") or ""),
            total_tokens=int(object_of(row.get("usage")).get("total_tokens") or 0),
            cost_usd=None if cost is None else float(cost),
            problem=str(error.get("message") or error.get("kind")) if error else None,
            body=row.get("body"),
        )


def object_of(value: object) -> dict[str, Any]:
    """Return `value` if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def objects_of(value: object) -> list[dict[str, Any]]:
    """Return the objects in `value` if it is a list, else an empty list."""
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def time_of(value: object) -> datetime | None:
    """Return the time for unix seconds, or None if `value` is no time."""
    return datetime.fromtimestamp(value, UTC) if isinstance(value, int | float) and value else None


def _text_of(output: object) -> str:
    """Return the text of an answer. A refusal is also a text."""
    messages = [item for item in objects_of(output) if item.get("type") == "message"]
    parts = [part for message in messages for part in objects_of(message.get("content"))]
    return "".join(str(part.get("text") or part.get("refusal") or "") for part in parts)
