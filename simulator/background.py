"""Native background mode: an answer that is made without a connection, and fetched, cancelled and deleted by its id.

It is off by default, as the provider documents no route to fetch one. The shapes are OpenAI's.
"""

import asyncio
from dataclasses import dataclass, field
from typing import Any, Final

from simulator.answers import Answer
from simulator.call_log import Call, Outcome
from simulator.errors import HttpError, error_reply
from simulator.http_server import Reply, Request, ResponseWriter
from simulator.keys import require_key
from simulator.recorded_answers import RecordedAnswer
from simulator.state import State

_QUEUED_SHARE: Final = 0.1
_STATES: Final = ("queued", "in_progress")


@dataclass(slots=True)
class _Stored:
    call: Call
    answer: Answer
    billed: bool
    recorded: RecordedAnswer | None
    status: str = "queued"
    timers: list[asyncio.TimerHandle] = field(default_factory=list)

    def body(self) -> dict[str, Any]:
        body = {**self.answer.body, "background": True}
        if self.status == "done":
            return {**body, "meta": self.answer.meta} if "body" in self.answer.cost_places else body
        body.pop("output_text", None)
        return {**body, "status": self.status, "output": [], "usage": None, "error": None, "incomplete_details": None}


class BackgroundResponses:
    """Responses by id, until their retention ends."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._stored: dict[str, _Stored] = {}

    def reset(self) -> None:
        """Delete all responses."""
        for stored in self._stored.values():
            for timer in stored.timers:
                timer.cancel()
        self._stored.clear()

    def submit(
        self, call: Call, answer: Answer, delay: float, *, billed: bool, recorded: RecordedAnswer | None = None
    ) -> Reply:
        """Begin a response that has `answer`, or the recorded answer in its place, after `delay` seconds."""
        stored = _Stored(call, answer, billed, recorded)
        response_id = answer.body["id"]
        self._stored[response_id] = stored
        loop = asyncio.get_running_loop()
        stored.timers = [
            loop.call_later(delay * _QUEUED_SHARE, self._advance, stored, "in_progress"),
            loop.call_later(delay, self._complete, stored),
            loop.call_later(delay + self._state.options.background_retention, self._stored.pop, response_id, None),
        ]
        return self._reply(stored)

    async def retrieve(self, request: Request, writer: ResponseWriter) -> None:
        """Answer GET /v1/responses/{id}."""
        stored = self._find(request, request.path.rpartition("/")[2])
        stored.call.polls += 1
        await writer.send(self._reply(stored))

    async def cancel(self, request: Request, writer: ResponseWriter) -> None:
        """Answer POST /v1/responses/{id}/cancel. A finished response is returned unchanged."""
        stored = self._find(request, request.path.split("/")[-2])
        self._end(stored)
        await writer.send(self._reply(stored))

    async def delete(self, request: Request, writer: ResponseWriter) -> None:
        """Answer DELETE /v1/responses/{id}. A running response is cancelled."""
        response_id = request.path.rpartition("/")[2]
        stored = self._find(request, response_id)
        self._end(stored)
        stored.timers[-1].cancel()
        del self._stored[response_id]
        stored.call.deleted = True
        await writer.send(Reply.json(200, {"id": response_id, "object": "response", "deleted": True}, {}))

    def _end(self, stored: _Stored) -> None:
        if stored.status not in _STATES:
            return
        stored.status = "cancelled"
        for timer in stored.timers[:2]:
            timer.cancel()
        options = self._state.options
        if options.bill_disconnects and stored.billed:
            self._state.call_log.bill(stored.call)
        self._state.call_log.finish(stored.call, Outcome.CANCELLED, options.ledger_limit)

    def _find(self, request: Request, response_id: str) -> _Stored:
        options = self._state.options
        require_key(request, options)
        if not options.native_background and not self._stored:
            raise HttpError(error_reply(404, f"Cannot {request.method} {request.path}", request.path))
        stored = self._stored.get(response_id)
        if stored is None:
            raise HttpError(error_reply(404, f"Response with id '{response_id}' not found.", request.path))
        return stored

    def _reply(self, stored: _Stored) -> Reply:
        headers = stored.call.tracing_headers()
        if stored.status in _STATES:
            headers["openai-poll-after-ms"] = str(self._state.options.poll_after_ms)
        elif stored.status == "done":
            if stored.recorded is not None:
                headers.update(stored.recorded.headers)
                return Reply(stored.recorded.status, stored.recorded.body, headers=headers)
            headers.update(stored.answer.cost_headers())
        return Reply.json(200, stored.body(), headers)

    def _advance(self, stored: _Stored, status: str) -> None:
        stored.status = status

    def _complete(self, stored: _Stored) -> None:
        stored.status = "done"
        if stored.billed:
            self._state.call_log.bill(stored.call)
        self._state.call_log.finish(stored.call, Outcome.ANSWERED, self._state.options.ledger_limit)
