"""An answer made without a connection: bought by one request, fetched by id, cancelled by id.

From the moment the provider has named the response, nothing that happens to us buys it again: whoever takes the job
next goes on asking for that id. So the id is handed out to be kept before anything else is done, and the request that
buys is given a moment to bring it even when the call is to end.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from time import monotonic
from typing import Final

import httpx

from jobs.errors import ErrorKind, Failure
from jobs.job import Answer, CallReport
from jobs.lifecycle import Status
from jobs.model_catalog import Model
from jobs.resource_shortage import once_it_fits
from jobs.retry_after import retry_after
from worker.provider.call_handle import AbortReason, CallHandle
from worker.provider.classify import pause_asked_for
from worker.provider.http_exchange import Endpoint, Received, ended_here, overdue
from worker.provider.response import CutOff, Reading, Unreadable, read_response

FIRST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 10.0
LONGEST_HINT: Final = 60.0
LEAST_HINT: Final = 0.05
FETCH_SECONDS: Final = 30.0
CANCEL_SECONDS: Final = 5.0
SUBMIT_GRACE: Final = 5.0
MISSES: Final = 3
"""How often in a row a response must be unknown to count as gone; one replica may not have heard of it yet."""
_REFUSED_FOR_GOOD: Final = frozenset({400, 404, 405, 409, 410, 422, 501})
_GONE: Final = frozenset({404, 410})
_NEVER_DELETED: Final = frozenset({400, 405, 422, 501})
_UNDER_WAY: Final = frozenset({Status.QUEUED, Status.IN_PROGRESS})
_LEFT_RUNNING: Final = frozenset({AbortReason.RELEASED, AbortReason.SUPERSEDED})


def call_background(
    endpoint: Endpoint,
    request: httpx.Request,
    model: Model,
    ends_at: float,
    handle: CallHandle,
    *,
    accepted: Callable[[str], None],
    unstored: bool = False,
) -> CallReport:
    """Buy a response and fetch it once it is made; `accepted` is told its id before anything else is done.

    A provider that answers in whole instead has answered; the id is told then as well where the client wants the
    response `unstored`.
    """
    ended = ended_here(handle)
    if ended is not None:
        return CallReport(ended)
    with handle.delayed_abort(SUBMIT_GRACE):
        came = endpoint.exchange(request, ends_at, handle, endpoint.read_whole)
    reading = _reading(came)
    if reading is None or reading.status not in _UNDER_WAY:
        if unstored and reading is not None and reading.id is not None:
            accepted(reading.id)  # it may have been stored all the same, and is to be deleted
        return endpoint.report(came, handle, model)
    if reading.id is None:
        message = "The provider took the call, and named no id to fetch its answer by."
        return CallReport(Failure(ErrorKind.MALFORMED_ANSWER, message))
    accepted(reading.id)
    return _Following(endpoint, reading.id, model, ends_at, handle).run(_hint(came, endpoint.clock()) or FIRST_PAUSE)


def resume_background(
    endpoint: Endpoint, response_id: str, model: Model, ends_at: float, handle: CallHandle
) -> CallReport:
    """Fetch what an earlier call has bought."""
    return _Following(endpoint, response_id, model, ends_at, handle).run(0)


def cancel_background(endpoint: Endpoint, response_id: str, model: Model) -> CallReport | None:
    """End at the provider what nobody waits for; None when it did not say what became of it.

    The report holds the answer where one was made before.
    """
    handle = CallHandle()
    request = endpoint.cancel(response_id, seconds=CANCEL_SECONDS, handle=handle)
    came = endpoint.exchange(request, monotonic() + CANCEL_SECONDS, handle, endpoint.read_whole)
    reading = _reading(came)
    if isinstance(came, Received) and came.status in _REFUSED_FOR_GOOD:
        gone = Failure(ErrorKind.LOST, "The provider no longer knows the response, or does not let it be cancelled.")
        return CallReport(gone, provider_response_id=response_id)
    if reading is None or reading.status in _UNDER_WAY:
        return None
    report = replace(endpoint.report(came, handle, model), provider_response_id=response_id)
    stopped = Failure(ErrorKind.INTERRUPTED, "The response was cancelled at the provider.")
    return report if isinstance(report.result, Answer) else replace(report, result=stopped)


def delete_background(endpoint: Endpoint, response_id: str) -> bool | None:
    """Delete what the provider keeps of a response: False if it does not let it be deleted, None if it said neither.

    One that the provider does not know is gone.
    """
    handle = CallHandle()
    request = endpoint.delete(response_id, seconds=CANCEL_SECONDS, handle=handle)
    came = endpoint.exchange(request, monotonic() + CANCEL_SECONDS, handle, endpoint.read_whole)
    if isinstance(came, Failure):
        return None
    if came.status in _GONE or (came.is_success and _is_object(came.body)):
        return True
    return False if came.status in _NEVER_DELETED else None


def _is_object(body: bytes) -> bool:
    """Whether the provider itself answered; a page in its place does not mean that anything was done."""
    try:
        return isinstance(json.loads(body or b"{}"), dict)
    except ValueError:
        return False


class _Following:
    """Asks for one response until it is made, gone, or no longer wanted."""

    def __init__(self, endpoint: Endpoint, response_id: str, model: Model, ends_at: float, handle: CallHandle) -> None:
        self._endpoint = endpoint
        self._id = response_id
        self._model = model
        self._ends_at = ends_at
        self._handle = handle

    def run(self, pause: float) -> CallReport:
        """What became of it. That it could not be asked for is no reason to give it up before the deadline."""
        own_pause = FIRST_PAUSE
        misses = 0
        while True:
            self._handle.pause(min(pause, self._ends_at - monotonic()))
            if self._handle.aborted is not None or monotonic() >= self._ends_at:
                return self._leave()
            came = self._fetch()
            reading = _reading(came)
            if reading is not None and reading.status not in _UNDER_WAY:
                return self._report(came)
            misses = misses + 1 if isinstance(came, Received) and came.status in (404, 410) else 0
            if misses == MISSES:
                gone = Failure(ErrorKind.LOST, "The provider no longer knows the response that it had taken on.")
                return CallReport(gone, http_status=404, provider_response_id=self._id)
            hint = _hint(came, self._endpoint.clock())
            pause = own_pause if hint is None else hint
            if hint is None:
                own_pause = min(own_pause * 1.5, LONGEST_PAUSE)

    def _fetch(self) -> Received | Failure:
        seconds = min(FETCH_SECONDS, max(self._ends_at - monotonic(), 0.001))
        request = self._endpoint.fetch(self._id, seconds=seconds, handle=self._handle)
        return self._endpoint.exchange(request, monotonic() + seconds, self._handle, self._endpoint.read_whole)

    def _report(self, came: Received | Failure) -> CallReport:
        return replace(self._endpoint.report(came, self._handle, self._model), provider_response_id=self._id)

    def _leave(self) -> CallReport:
        """End it at the provider too, unless another goes on with it; an answer that was made meanwhile counts."""
        failure = CallReport(ended_here(self._handle) or overdue(), provider_response_id=self._id)
        if self._handle.aborted in _LEFT_RUNNING:
            return failure
        report = cancel_background(self._endpoint, self._id, self._model)
        if report is None:
            return failure
        return report if isinstance(report.result, Answer) else replace(report, result=failure.result)


def _reading(came: Received | Failure) -> Reading | None:
    """The response object that came, if one did; of a stream that was cut, the one that it began with."""
    if isinstance(came, Failure) or not came.is_success:
        return None
    try:
        return once_it_fits(partial(read_response, came.body, is_broken=came.is_broken))
    except CutOff as error:
        begun = {"object": "response", "status": Status.IN_PROGRESS, "id": error.begun.get("id")}
        return read_response(json.dumps(begun).encode()) if begun["id"] else None
    except Unreadable:
        return None


def _hint(came: Received | Failure, now: datetime) -> float | None:
    """In how many seconds the provider wants to be asked again."""
    if isinstance(came, Failure):
        return None
    asked = retry_after(came.headers.get("openai-poll-after-ms", ""), now, unit=timedelta(milliseconds=1))
    if asked is None:
        asked = pause_asked_for(came.headers, now)
    if asked is None:
        return None
    return min(max(asked.total_seconds(), LEAST_HINT), LONGEST_HINT)
