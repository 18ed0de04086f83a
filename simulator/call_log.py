"""The log of received calls: one record per call, by which crash tests and benchmarks count.

It is bounded. Finished calls beyond a limit are deleted (the totals are not), and only the newest raw bodies are kept.
"""

import secrets
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

_BODIES_BYTES: Final = 64 * 1024 * 1024


class Outcome(StrEnum):
    """The end of a call, from the provider's view."""

    RUNNING = "running"
    ANSWERED = "answered"  # 200, sent completely; the response in it may have failed
    REFUSED = "refused"  # an HTTP error
    DROPPED = "dropped"  # a fault: reset, truncated, silent, malformed
    CLIENT_DISCONNECTED = "client_disconnected"
    CANCELLED = "cancelled"  # by the background route
    STOPPED = "stopped"  # the simulator stopped first


@dataclass(slots=True, eq=False)
class Call:
    """One POST /v1/responses. Times are in Unix time."""

    sequence: int
    client_request_id: str | None
    api_key: str | None
    received_at: float
    inference_id: str
    outcome: Outcome = Outcome.RUNNING
    finished_at: float | None = None
    client_closed_at: float | None = None
    billed: bool = False
    http_status: int | None = None
    model: str | None = None
    script: str | None = None
    prompt_sha256: bytes | None = None
    request_keys: tuple[str, ...] = ()
    truncation: str | None = None
    stream: bool | None = None
    background: bool | None = None
    store: bool | None = None
    deleted: bool = False
    response_id: str | None = None
    polls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    usd: float = 0.0

    def tracing_headers(self) -> dict[str, str]:
        """Return the header fields that identify the call."""
        headers = {"x-inference-id": self.inference_id}
        if self.client_request_id is not None:
            headers["x-client-request-id"] = self.client_request_id
        return headers

    def as_json(self) -> dict[str, Any]:
        """Return the record as in `GET /_calls`."""
        return {
            "sequence": self.sequence,
            "client_request_id": self.client_request_id,
            "inference_id": self.inference_id,
            "received_at": moment(self.received_at),
            "finished_at": moment(self.finished_at),
            "client_closed_at": moment(self.client_closed_at),
            "outcome": self.outcome,
            "billed": self.billed,
            "http_status": self.http_status,
            "model": self.model,
            "script": self.script,
            "prompt_sha256": self.prompt_sha256.hex() if self.prompt_sha256 is not None else None,
            "request_keys": self.request_keys,
            "truncation": self.truncation,
            "stream": self.stream,
            "background": self.background,
            "store": self.store,
            "deleted": self.deleted,
            "response_id": self.response_id,
            "polls": self.polls,
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "cost_usd": round(self.usd, 9),
        }


def moment(seconds: float | None) -> str | None:
    """Return Unix time as ISO 8601 with microseconds, in UTC."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


@dataclass(frozen=True, slots=True)
class SentRequest:
    """A client's request, byte for byte, for tests that check it."""

    headers: Mapping[str, str]
    body: bytes


class CallLog:
    """All calls since the last reset."""

    def __init__(self) -> None:
        self._request_keys: dict[tuple[str, ...], tuple[str, ...]] = {}
        self.reset()

    def reset(self) -> None:
        """Delete everything. Calls that are running continue, but are no longer recorded."""
        self._calls: dict[int, Call] = {}
        self._finished: deque[Call] = deque()
        self._requests: OrderedDict[int, SentRequest] = OrderedDict()
        self._request_bytes = 0
        self._outcomes: Counter[Outcome] = Counter()
        self._total = 0
        self._billed = 0
        self._peak_in_flight = 0
        self.in_flight = 0
        self.spent_usd = 0.0

    def open(self, client_request_id: str | None, api_key: str | None) -> Call:
        """Record that a call has arrived."""
        self._total += 1
        self.in_flight += 1
        self._peak_in_flight = max(self._peak_in_flight, self.in_flight)
        call = Call(self._total, client_request_id, api_key, time.time(), secrets.token_urlsafe(16)[:21])
        self._calls[call.sequence] = call
        return call

    def keep_request(self, call: Call, request: SentRequest, limit: int) -> None:
        """Keep a client's request, and only the newest `limit` of them."""
        self._requests[call.sequence] = request
        self._request_bytes += len(request.body)
        while self._requests and (len(self._requests) > limit or self._request_bytes > _BODIES_BYTES):
            _, oldest = self._requests.popitem(last=False)
            self._request_bytes -= len(oldest.body)

    def intern_keys(self, keys: tuple[str, ...]) -> tuple[str, ...]:
        """Return one tuple for all calls with the same keys."""
        if len(self._request_keys) > 1000:
            self._request_keys.clear()
        return self._request_keys.setdefault(keys, keys)

    def bill(self, call: Call) -> None:
        """Bill a call, once."""
        if not call.billed:
            call.billed = True
            if self._is_recorded(call):
                self._billed += 1
                self.spent_usd += call.usd

    def finish(self, call: Call, outcome: Outcome, limit: int) -> None:
        """Record the end of a call, once. Keep the newest `limit` finished calls."""
        if call.outcome is not Outcome.RUNNING:
            return
        call.outcome = outcome
        call.finished_at = time.time()
        if not self._is_recorded(call):
            return
        self.in_flight -= 1
        self._outcomes[outcome] += 1
        self._finished.append(call)
        while len(self._finished) > limit:
            del self._calls[self._finished.popleft().sequence]

    def _is_recorded(self, call: Call) -> bool:
        return self._calls.get(call.sequence) is call

    def calls(self) -> Iterator[Call]:
        """Return the recorded calls, oldest first."""
        return iter(self._calls.values())

    def sent(self, call: Call) -> SentRequest | None:
        """Return the client's request if it is still kept."""
        return self._requests.get(call.sequence)

    def summary(self) -> dict[str, Any]:
        """Return the totals since the last reset, deleted calls included."""
        return {
            "total": self._total,
            "in_flight": self.in_flight,
            "peak_in_flight": self._peak_in_flight,
            "billed": self._billed,
            "spent_usd": round(self.spent_usd, 9),
            "outcomes": {outcome.value: count for outcome, count in sorted(self._outcomes.items())},
        }


def summary_of(calls: list[Call]) -> dict[str, Any]:
    """Return the same totals of some calls only."""
    outcomes = Counter(call.outcome for call in calls)
    running = outcomes.pop(Outcome.RUNNING, 0)
    return {
        "total": len(calls),
        "in_flight": running,
        "billed": sum(call.billed for call in calls),
        "spent_usd": round(sum(call.usd for call in calls if call.billed), 9),
        "outcomes": {outcome.value: count for outcome, count in sorted(outcomes.items())},
    }
