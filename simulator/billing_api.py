"""GET /v2/logs and GET /v2/billing: the provider's records of calls and money.

With the options for it, the log is late and lacks rows: a client must cope with both.
"""

import time
from collections import defaultdict, deque
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from simulator.call_log import Call
from simulator.catalogue import aliases
from simulator.errors import HttpError, error_reply, named_reply
from simulator.http_server import Reply, Request, ResponseWriter
from simulator.keys import require_key
from simulator.script_runner import draw
from simulator.state import State

_LONGEST_WINDOW: Final = timedelta(days=92)
_LIMIT_WINDOW_SECONDS: Final = 60.0
_UNLIMITED_BALANCE: Final = 1_000.0
_PREFIX_LENGTH: Final = 8


class _QueryInvalid(ValueError):
    pass


class BillingApi:
    """The routes by which clients reconcile their records."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._asked_at: defaultdict[str, deque[float]] = defaultdict(deque)

    def reset(self) -> None:
        """Reset the rate limit."""
        self._asked_at.clear()

    async def billing(self, request: Request, writer: ResponseWriter) -> None:
        """Answer GET /v2/billing."""
        options = self._state.options
        require_key(request, options)
        start = _UNLIMITED_BALANCE if options.balance is None else options.balance
        remaining = round(max(start - self._state.call_log.spent_usd, 0.0), 6)
        await writer.send(Reply.json(200, {"current_balance": remaining, "currency": "USD"}))

    async def logs(self, request: Request, writer: ResponseWriter) -> None:
        """Answer GET /v2/logs: newest first, paged by offset."""
        key = require_key(request, self._state.options)
        self._count(key, request)
        query = request.query
        try:
            start, end = _window(query)
            limit = _number(query, "limit", 50, range(1, 101))
            offset = _number(query, "offset", 0, range(2**31))
            statuses = _statuses(query)
        except _QueryInvalid as error:
            raise HttpError(error_reply(400, f"Query validation error\n{error}", request.path)) from None
        prefix = query.get("key_prefix", [key])[0]
        if not key.startswith(prefix) or (prefix != key and len(prefix) < _PREFIX_LENGTH):
            raise HttpError(error_reply(403, "Forbidden resource", request.path))
        models = query.get("model")
        calls = [
            call
            for call in self._state.call_log.calls()
            if call.api_key == key
            and start <= call.received_at <= end
            and _status(call) in statuses
            and (models is None or any(_is_model(call, model) for model in models))
            and self._is_listed(call)
        ]
        page = calls[::-1][offset : offset + limit]
        pagination = {"limit": limit, "offset": offset, "total": len(calls), "has_more": offset + limit < len(calls)}
        await writer.send(Reply.json(200, {"data": [_row(call) for call in page], "pagination": pagination}))

    def _count(self, key: str, request: Request) -> None:
        now, asked_at = time.monotonic(), self._asked_at[key]
        while asked_at and asked_at[0] <= now - _LIMIT_WINDOW_SECONDS:
            asked_at.popleft()
        if len(asked_at) >= self._state.options.logs_per_minute:
            raise HttpError(named_reply("429", request.path))
        asked_at.append(now)

    def _is_listed(self, call: Call) -> bool:
        options = self._state.options
        if call.finished_at is None or call.model is None:
            return False
        if time.time() < call.finished_at + options.logs_lag:
            return False
        return draw(options.seed, "logs", call.inference_id) >= options.logs_missing


def _status(call: Call) -> str:
    return "succeeded" if call.billed else "failed"


def _is_model(call: Call, wanted: str) -> bool:
    return call.model is not None and wanted in (call.model, *aliases(call.model))


def _row(call: Call) -> dict[str, Any]:
    created = datetime.fromtimestamp(call.received_at, UTC).isoformat(timespec="milliseconds")
    tokens = (call.input_tokens, call.output_tokens) if call.billed else (0, 0)
    usd = call.usd if call.billed else 0.0
    return {
        "created": created.replace("+00:00", "Z"),
        "status": _status(call),
        "origin": "api",
        "model": call.model,
        "cost": {"usd": round(usd, 9), "credits": round(usd * 2_000_000)},
        "tokens": {"input": tokens[0], "output": tokens[1], "total": sum(tokens)},
        "request_id": f"req-{call.sequence}",
        "inference_id": call.inference_id,
        "client_request_id": call.client_request_id,
    }


def _window(query: dict[str, list[str]]) -> tuple[float, float]:
    """Return the requested window, in Unix time."""
    if "period" in query:
        if "start" in query or "end" in query:
            raise _QueryInvalid("Provide either period or both start and end, never both")
        return _period(query["period"][0])
    if "start" not in query or "end" not in query:
        raise _QueryInvalid("Provide either period or both start and end")
    start, end = _moment(query["start"][0]), _moment(query["end"][0])
    if end < start:
        raise _QueryInvalid("end must not be earlier than start")
    if end - start > _LONGEST_WINDOW:
        raise _QueryInvalid("The window must not exceed 92 days")
    return start.timestamp(), end.timestamp()


def _period(text: str) -> tuple[float, float]:
    number, unit = text[:-1], text[-1:]
    if not number.isdecimal() or int(number) < 1 or unit not in ("h", "d"):
        raise _QueryInvalid("period must be a positive integer followed by h or d")
    hours = int(number) * (1 if unit == "h" else 24)
    if hours > _LONGEST_WINDOW // timedelta(hours=1):
        raise _QueryInvalid("The window must not exceed 92 days")
    now = time.time()
    return now - hours * 3600, now


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise _QueryInvalid(f"Invalid date: {text}") from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _statuses(query: dict[str, list[str]]) -> frozenset[str]:
    known = frozenset(("succeeded", "failed"))
    wanted = frozenset(query.get("status", known))
    if not wanted <= known:
        raise _QueryInvalid("Invalid enum value. Expected 'succeeded' | 'failed'")
    return wanted


def _number(query: dict[str, list[str]], name: str, default: int, allowed: range) -> int:
    text = query.get(name, [str(default)])[0]
    if not text.isdecimal() or int(text) not in allowed:
        raise _QueryInvalid(f"{name} must be from {allowed.start} to {allowed.stop - 1}")
    return int(text)
