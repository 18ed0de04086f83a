"""An answer that is made without a connection: created by one request, polled by its id, cancelled by its id.

Once the provider has named the response, it is never created again: whichever worker takes the job next continues to
poll that id. So the id is reported before anything else is done, and an aborted call still waits a moment for the reply
that names it.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from time import monotonic
from typing import Final

import httpx

from jobs.cancel_reason import AbortReason
from jobs.encoding import read_json
from jobs.errors import ErrorKind, Failure
from jobs.job import Answer, CallReport
from jobs.lifecycle import Status
from jobs.model_catalog import Model
from jobs.resource_shortage import once_it_fits
from jobs.retry_after import retry_after
from worker.provider.call_handle import CallHandle
from worker.provider.classify import pause_asked_for
from worker.provider.http_exchange import ExchangeResult, ResponsesApi, abort_failure, deadline_exceeded
from worker.provider.response import ParsedResponse, TruncatedStream, Unreadable, read_response

FIRST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 10.0
LONGEST_REQUESTED: Final = 60.0
LEAST_REQUESTED: Final = 0.05
FETCH_SECONDS: Final = 30.0
CANCEL_SECONDS: Final = 5.0
SUBMIT_GRACE: Final = 5.0
MISSES: Final = 3
"""Times in a row that a response must be unknown to count as gone; one replica may not know of it yet."""
_REFUSED_FOR_GOOD: Final = frozenset({400, 404, 405, 409, 410, 422, 501})
_GONE: Final = frozenset({404, 410})
_NEVER_DELETED: Final = frozenset({400, 405, 422, 501})
_RUNNING: Final = frozenset({Status.QUEUED, Status.IN_PROGRESS})
_LEFT_RUNNING: Final = frozenset({AbortReason.RELEASED, AbortReason.SUPERSEDED})


def call_background(
    api: ResponsesApi,
    request: httpx.Request,
    model: Model,
    ends_at: float,
    handle: CallHandle,
    *,
    accepted: Callable[[str], None],
    unstored: bool = False,
) -> CallReport:
    """Create a background response and poll it until it has ended. `accepted` is called first, with its id.

    A provider may also answer at once. Then `accepted` is called only if the client wants the response `unstored`.
    """
    ended = abort_failure(handle)
    if ended is not None:
        return CallReport(ended)
    with handle.delayed_abort(SUBMIT_GRACE):
        result = api.exchange(request, ends_at, handle, api.read_whole)
    parsed = _parse(result)
    if parsed is None or parsed.status not in _RUNNING:
        if unstored and parsed is not None and parsed.id is not None:
            accepted(parsed.id)  # the provider may have stored it all the same: it is to be deleted
        return api.report(result, handle, model)
    if parsed.id is None:
        message = "The provider accepted the request but gave no id by which to fetch the answer."
        return CallReport(Failure(ErrorKind.MALFORMED_ANSWER, message))
    accepted(parsed.id)
    return _Poller(api, parsed.id, model, ends_at, handle).run(_requested_pause(result, api.clock()) or FIRST_PAUSE)


def resume_background(
    api: ResponsesApi, response_id: str, model: Model, ends_at: float, handle: CallHandle
) -> CallReport:
    """Poll a response that an earlier call created."""
    return _Poller(api, response_id, model, ends_at, handle).run(0)


def cancel_background(api: ResponsesApi, response_id: str, model: Model) -> CallReport | None:
    """Cancel a response at the provider that nobody waits for. Return None if the provider gave no clear reply.

    The report holds the answer if the response had been completed before.
    """
    handle = CallHandle()
    request = api.cancel(response_id, seconds=CANCEL_SECONDS, handle=handle)
    result = api.exchange(request, monotonic() + CANCEL_SECONDS, handle, api.read_whole)
    parsed = _parse(result)
    if isinstance(result, ExchangeResult) and result.status in _REFUSED_FOR_GOOD:
        gone = Failure(ErrorKind.LOST, "The provider no longer knows the response, or does not allow its cancellation.")
        return CallReport(gone, provider_response_id=response_id)
    if parsed is None or parsed.status in _RUNNING:
        return None
    report = replace(api.report(result, handle, model), provider_response_id=response_id)
    cancelled = Failure(ErrorKind.INTERRUPTED, "The response was cancelled at the provider.")
    return report if isinstance(report.result, Answer) else replace(report, result=cancelled)


def delete_background(api: ResponsesApi, response_id: str) -> bool | None:
    """Delete a response at the provider. Return False if it does not allow that, None if it gave no clear reply.

    A response that the provider does not know is gone, which counts as deleted.
    """
    handle = CallHandle()
    request = api.delete(response_id, seconds=CANCEL_SECONDS, handle=handle)
    result = api.exchange(request, monotonic() + CANCEL_SECONDS, handle, api.read_whole)
    if isinstance(result, Failure):
        return None
    if result.status in _GONE or (result.is_success and _is_object(result.body)):
        return True
    return False if result.status in _NEVER_DELETED else None


def _is_object(body: bytes) -> bool:
    """Return whether the provider itself replied; an HTML page in its place does not prove a deletion."""
    try:
        return isinstance(read_json(body or b"{}"), dict)
    except ValueError:
        return False


class _Poller:
    """Polls one response until it has ended, is gone, or is no longer wanted."""

    def __init__(self, api: ResponsesApi, response_id: str, model: Model, ends_at: float, handle: CallHandle) -> None:
        self._api = api
        self._id = response_id
        self._model = model
        self._ends_at = ends_at
        self._handle = handle

    def run(self, pause: float) -> CallReport:
        """Return the response's result. Failed requests are repeated until the deadline."""
        own_pause = FIRST_PAUSE
        misses = 0
        while True:
            self._handle.pause(min(pause, self._ends_at - monotonic()))
            if self._handle.aborted is not None or monotonic() >= self._ends_at:
                return self._stop()
            result = self._fetch()
            parsed = _parse(result)
            if parsed is not None and parsed.status not in _RUNNING:
                return self._report(result)
            misses = misses + 1 if isinstance(result, ExchangeResult) and result.status in _GONE else 0
            if misses == MISSES:
                gone = Failure(ErrorKind.LOST, "The provider no longer knows the response that it had accepted.")
                return CallReport(gone, http_status=404, provider_response_id=self._id)
            requested = _requested_pause(result, self._api.clock())
            pause = own_pause if requested is None else requested
            if requested is None:
                own_pause = min(own_pause * 1.5, LONGEST_PAUSE)

    def _fetch(self) -> ExchangeResult | Failure:
        seconds = min(FETCH_SECONDS, max(self._ends_at - monotonic(), 0.001))
        request = self._api.fetch(self._id, seconds=seconds, handle=self._handle)
        return self._api.exchange(request, monotonic() + seconds, self._handle, self._api.read_whole)

    def _report(self, result: ExchangeResult | Failure) -> CallReport:
        return replace(self._api.report(result, self._handle, self._model), provider_response_id=self._id)

    def _stop(self) -> CallReport:
        """Cancel it at the provider, unless another worker continues to poll it. An answer made meanwhile counts."""
        failure = CallReport(abort_failure(self._handle) or deadline_exceeded(), provider_response_id=self._id)
        if self._handle.aborted in _LEFT_RUNNING:
            return failure
        report = cancel_background(self._api, self._id, self._model)
        if report is None:
            return failure
        return report if isinstance(report.result, Answer) else replace(report, result=failure.result)


def _parse(result: ExchangeResult | Failure) -> ParsedResponse | None:
    """Return the response object that was received, if any; of a truncated stream, the one that it began with."""
    if isinstance(result, Failure) or not result.is_success:
        return None
    try:
        return once_it_fits(partial(read_response, result.body, is_broken=result.is_broken))
    except TruncatedStream as error:
        begun = {"object": "response", "status": Status.IN_PROGRESS, "id": error.begun.get("id")}
        return read_response(json.dumps(begun).encode()) if begun["id"] else None
    except Unreadable:
        return None


def _requested_pause(result: ExchangeResult | Failure, now: datetime) -> float | None:
    """Return the number of seconds after which the provider asks to be polled again."""
    if isinstance(result, Failure):
        return None
    pause = retry_after(result.headers.get("openai-poll-after-ms", ""), now, unit=timedelta(milliseconds=1))
    if pause is None:
        pause = pause_asked_for(result.headers, now)
    if pause is None:
        return None
    return min(max(pause.total_seconds(), LEAST_REQUESTED), LONGEST_REQUESTED)
