"""The simulator's own routes, under `/_`: they show the calls, and change the options.

- `GET /_calls` returns the call log: `{"summary": {...}, "calls": [...]}`, oldest call first. Filters:
  `client_request_id_prefix`, `prompt` (SHA-256 in hex), `outcome`, `billed` (true or false), `after` (a sequence
  number); the summary then covers the filtered calls. `limit` keeps the newest; `limit=0` is the cheap way to read
  the summary. `bodies=true` adds each call's raw `body` and its `headers` while they are kept.
- `DELETE /_calls` deletes all calls, counted script steps and background responses.
- `GET /_script` returns the options in force. `PUT /_script` changes those in its JSON body, at once.
  `DELETE /_script` restores those of the start.
- `GET /_health` answers 200.
"""

import json
from collections.abc import Callable
from typing import Any

from pydantic import ValidationError

from simulator.background import BackgroundResponses
from simulator.billing_api import BillingApi
from simulator.call_log import Call, summary_of
from simulator.http_server import Reply, Request, ResponseWriter
from simulator.state import State


class AdminApi:
    """Handlers of the `/_` routes."""

    def __init__(self, state: State, background: BackgroundResponses, billing_api: BillingApi) -> None:
        self._state = state
        self._background = background
        self._billing_api = billing_api

    async def health(self, _request: Request, writer: ResponseWriter) -> None:
        """Answer GET /_health."""
        await writer.send(Reply.json(200, {"status": "ok"}))

    async def list_calls(self, request: Request, writer: ResponseWriter) -> None:
        """Answer GET /_calls."""
        query = {name: values[-1] for name, values in request.query.items()}
        bodies = query.pop("bodies", "false") == "true"
        limit = query.pop("limit", "-1")
        filters = [_FILTERS[name](value) for name, value in query.items() if name in _FILTERS]
        unknown = query.keys() - _FILTERS.keys()
        if unknown or not limit.removeprefix("-").isdecimal():
            named = ", ".join(sorted(unknown or {"limit"}))
            await writer.send(Reply.json(400, {"message": f"unknown or bad parameters: {named}"}))
            return
        call_log = self._state.call_log
        if filters:
            calls = [call for call in call_log.calls() if all(holds(call) for holds in filters)]
            summary = summary_of(calls)
        else:
            calls = [] if limit == "0" else list(call_log.calls())
            summary = call_log.summary()
        newest = calls if int(limit) < 0 else calls[max(len(calls) - int(limit), 0) :]
        shown = [self._with_request(call) if bodies else call.as_json() for call in newest]
        await writer.send(Reply.json(200, {"summary": summary, "calls": shown}))

    def _with_request(self, call: Call) -> dict[str, Any]:
        sent = self._state.call_log.sent(call)
        body = sent.body.decode("utf-8", "replace") if sent is not None else None
        return {**call.as_json(), "body": body, "headers": sent.headers if sent is not None else None}

    async def delete_calls(self, _request: Request, writer: ResponseWriter) -> None:
        """Answer DELETE /_calls."""
        self._state.call_log.reset()
        self._state.script_runner.reset()
        self._background.reset()
        self._billing_api.reset()
        await writer.send(Reply(204, b""))

    async def show_options(self, _request: Request, writer: ResponseWriter) -> None:
        """Answer GET /_script."""
        await writer.send(Reply.json(200, self._state.options.model_dump(mode="json")))

    async def change_options(self, request: Request, writer: ResponseWriter) -> None:
        """Answer PUT /_script."""
        try:
            self._state.options = self._state.options.changed(json.loads(request.body))
        except ValidationError as error:
            details = error.errors(include_url=False, include_context=False, include_input=False)
            await writer.send(Reply.json(400, {"message": "bad options", "errors": details}))
        except (TypeError, ValueError) as error:
            await writer.send(Reply.json(400, {"message": str(error)}))
        else:
            await self.show_options(request, writer)

    async def restore_options(self, request: Request, writer: ResponseWriter) -> None:
        """Answer DELETE /_script."""
        self._state.options = self._state.initial_options
        await self.show_options(request, writer)


Filter = Callable[[Call], bool]


def _by_prefix(prefix: str) -> Filter:
    return lambda call: call.client_request_id is not None and call.client_request_id.startswith(prefix)


def _by_prompt(digest: str) -> Filter:
    return lambda call: call.prompt_sha256 is not None and call.prompt_sha256.hex() == digest.lower()


def _by_outcome(outcome: str) -> Filter:
    return lambda call: call.outcome == outcome


def _by_billed(billed: str) -> Filter:
    return lambda call: call.billed == (billed == "true")


def _after(sequence: str) -> Filter:
    number = int(sequence) if sequence.isdecimal() else 0
    return lambda call: call.sequence > number


_FILTERS: dict[str, Callable[[str], Filter]] = {
    "client_request_id_prefix": _by_prefix,
    "prompt": _by_prompt,
    "outcome": _by_outcome,
    "billed": _by_billed,
    "after": _after,
}
