"""`/responses`: submit, poll, watch, list, cancel, retry, delete."""

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from sqlalchemy import Connection

from api.body_reader import read_request_body
from api.dependencies import AppState, Reader, StateDep, SubmitterDep, Writer
from api.errors import RESPONSE_ID, failed_response
from api.held_response import EventStream, HeldAnswer
from api.lists import AttemptsListed, ResponsesListed
from api.max_wait import MaxWait
from api.paging import ListedPage
from api.request.base import refuse_nul
from api.request.openapi import request_body
from api.response_body import AttemptPage, Deleted, ErrorBody, ResponseBody, ResponsePage, render_response
from api.response_view import JsonBytes, body_response, etag_of, poll_hint, read_body, read_body_with_reasoning
from api.sdk_retry.join import submit_or_join
from api.waiting import until_ended
from jobs.cancel_reason import AbortReason
from jobs.encoding import to_json
from jobs.errors import CallerError, RequestInvalid, StaleJob, WrongState
from jobs.job import Job
from jobs.lifecycle import TRANSITIONS, Actor, Status, Verb
from jobs.request_fields import ENCRYPTED_REASONING, asks_for_reasoning
from jobs.store.attempts import may_have_been_billed
from jobs.store.database import DATABASE_ERRORS
from jobs.store.jobs import Moved, erase, move, retry_job
from jobs.store.responses import Filters, ResponseSummary, get_job, get_response_document, no_job

RACES = 20
HEADERS_HELD_SECONDS = 20.0
"""Seconds for which a held response has sent no headers and may still become an HTTP error. Proxies time out after a
minute without headers, some after 30 s. Most calls that fail have failed by then."""
LARGEST_NUMBER = 2**31 - 2
"""Largest number of an event or attempt that a database column holds."""
METADATA_FILTER = re.compile(r"metadata\[(.*)\]", re.DOTALL)
METADATA_PARAMETER = {
    "name": "metadata",
    "in": "query",
    "style": "deepObject",
    "explode": True,
    "description": "`metadata[key]=value`: only responses with this label. Repeat it for each label.",
    "schema": {"type": "object", "additionalProperties": {"type": "string"}, "maxProperties": 16},
}


def _errors(reasons: Mapping[int | str, str]) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": ErrorBody, "description": reason} for status, reason in reasons.items()}


ERRORS = _errors(
    {
        400: "The request is invalid; `param` names the field.",
        401: "The API key is missing or wrong.",
        403: "The API key lacks the scope.",
        404: "Not found, or it belongs to another API key.",
        "4XX": "Any other invalid request.",  # also keeps FastAPI from adding its own 422, which is never sent
        500: "An error of this server.",
        503: "The database does not answer, the server is restarting, or a held request has waited for an unavailable"
        " provider as long as it may. Nothing was billed.",
    }
)
HELD_ERRORS = _errors(
    {
        413: "The decompressed body is too large.",
        415: "The body's Content-Encoding is not supported.",
        422: "The Idempotency-Key was used with another body.",
        429: "This API key holds too many requests open, or a held response failed because of the provider's rate"
        " limit. Nothing was billed.",
        502: "A held response failed at the provider. Nothing was billed.",
        504: "A held response was not finished by its deadline. Nothing was billed.",
    }
)
WHOLE_OR_EVENTS: dict[str, Any] = {
    "model": ResponseBody,
    "content": {
        "text/event-stream": {
            "schema": {
                "type": "object",
                "description": "`data` is a JSON object with at least `type` (as in `event`) and `sequence_number`.",
                "properties": {"event": {"type": "string"}, "data": {"type": "string"}},
                "required": ["event", "data"],
            }
        }
    },
    "description": "The response, or its events with `stream`.",
}

router = APIRouter(prefix="/responses", tags=["responses"], responses=ERRORS)
direct_router = APIRouter(prefix="/responses", tags=["responses"], responses=ERRORS)


@direct_router.post(
    "", summary="Submit", responses={200: WHOLE_OR_EVENTS, **HELD_ERRORS}, openapi_extra={"requestBody": request_body()}
)
async def create(
    request: Request,
    state: StateDep,
    submitter: SubmitterDep,
    idempotency_key: Annotated[
        str | None, Header(description="Sent again with the same body, it gives the same response.")
    ] = None,
) -> Response:
    """Create a response. It is durable once this answers; without `background` it answers when the response has ended.

    With `stream`, the answer is the response's events. A held answer that takes long starts with status 200 and white
    space; a failure is then in the response's own `status` and `error`. The header `openai-response-id` has its id.
    """
    try:
        raw = await read_request_body(request, state.settings.max_body_bytes)
        submitted = await submit_or_join(request, raw, state, submitter, idempotency_key)
    except CallerError:
        await submitter.confirmed()  # a revoked key is reported before any other error
        raise
    job, hold, caller = submitted.job, submitted.hold, submitter.last_known
    if hold is None:
        headers = {RESPONSE_ID: job.id, **poll_hint(job, state.database.clock())}
        return JsonBytes(to_json(render_response(submitted.document, None)), headers)
    max_wait = None if job.background else MaxWait(state, job)
    if submitted.document.settings.get("stream"):
        return EventStream(request, state, job.id, caller, hold, max_wait=max_wait)
    with hold:
        rendered = await until_ended(request, state, job.id, caller, HEADERS_HELD_SECONDS, max_wait)
        if not rendered.job.status.is_terminal:
            return HeldAnswer(request, state, submitted.document, caller, hold.passed_on(), max_wait)
    if rendered.job.status is not Status.FAILED:
        return rendered.to_response(state.database.clock())
    billed = await run_in_threadpool(_may_have_been_billed, state, job)
    return failed_response(rendered.job, may_have_been_billed=billed)


@router.get(
    "", summary="List", responses={200: {"model": ResponsePage}}, openapi_extra={"parameters": [METADATA_PARAMETER]}
)
async def list_responses(
    request: Request,
    state: StateDep,
    caller: Reader,
    *,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: Annotated[str | None, Query(max_length=64, description="the last id of the previous page")] = None,
    order: Literal["asc", "desc"] = "desc",
    status: Status | None = None,
    model: Annotated[str | None, Query(max_length=256)] = None,
    created_after: Annotated[float | None, Query(ge=0, le=4e9, description="unix seconds, inclusive")] = None,
    created_before: Annotated[float | None, Query(ge=0, le=4e9, description="unix seconds, exclusive")] = None,
) -> Response:
    """List your responses, newest first. `metadata[key]=value` filters by a label; repeat it for each label.

    A page ends at 16 MB, with `has_more` set. Request settings above 16 KB (such as `instructions` or `tools`) are left
    out and named in `backburner.left_out`; retrieve the response to get them.
    """
    refuse_nul(after, "after")
    refuse_nul(model, "model")
    filters = Filters(status, model, _utc(created_after), _utc(created_before), _labels(request))
    source = ResponsesListed(state, caller, filters, limit=limit, after=after, ascending=order == "asc")
    return ListedPage(state.lists, caller.id, source)


@direct_router.get(
    "/{response_id}",
    summary="Retrieve",
    responses={200: WHOLE_OR_EVENTS, 304: {"description": "The response has not changed since that ETag."}},
)
async def retrieve(
    request: Request,
    state: StateDep,
    caller: Reader,
    response_id: str,
    *,
    wait: Annotated[float, Query(ge=0, le=300, description="seconds to wait for the response to end")] = 0,
    stream: Annotated[bool, Query(description="server-sent events until the response ends")] = False,
    starting_after: Annotated[
        int | None, Query(ge=0, le=LARGEST_NUMBER, description="with `stream`: only events after this number")
    ] = None,
    include: Annotated[
        list[str] | None, Query(alias="include[]", description=f"`{ENCRYPTED_REASONING}` shows encrypted reasoning")
    ] = None,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """Get a response. `wait` holds the answer until the response has ended; `stream` sends its events."""
    refuse_nul(response_id, "response_id")
    if stream:
        await _summary(state, response_id, caller.id)
        number = 0 if starting_after is None else starting_after + 1
        return EventStream(request, state, response_id, caller, state.holds.take(caller.id), number)
    shows_reasoning = asks_for_reasoning({"include": include})
    if wait > 0:
        with state.holds.take(caller.id):
            rendered = await until_ended(request, state, response_id, caller, wait)
        if not shows_reasoning:
            now = state.database.clock()
            return _not_modified(rendered.job, if_none_match, now) or rendered.to_response(now)
    if shows_reasoning:
        rendered = await run_in_threadpool(
            read_body_with_reasoning, state.database, response_id, caller.id, state.settings.provider_name
        )
        return rendered.to_response(state.database.clock())
    summary = await _summary(state, response_id, caller.id)
    not_modified = _not_modified(summary, if_none_match, state.database.clock())
    return not_modified or await _body(state, summary, caller.id)


@router.post("/{response_id}/cancel", summary="Cancel", responses={200: {"model": ResponseBody}})
def cancel(state: StateDep, caller: Writer, response_id: str) -> Response:
    """Cancel a queued or running response at once, and close its call to the provider. Repeating it is harmless."""

    def cancel_if_open(job: Job) -> Job:
        if job.status in TRANSITIONS[Verb.CANCEL].sources:
            with state.database.begin() as tx:
                cancelled = _cancel(tx, state, job)
            _notify_cancelled(state, cancelled)
            return cancelled.jobs[0]
        if job.background:
            return job
        raise WrongState(f"Cannot cancel a response that is {job.status}.", "response_id")

    job = _act_on_job(state, caller.id, response_id, cancel_if_open)
    rendered = read_body(state.database, job.id, caller.id, state.settings.provider_name)
    return rendered.to_response(state.database.clock())


@router.post("/{response_id}/retry", summary="Retry", responses={200: {"model": ResponseBody}})
def retry(state: StateDep, caller: Writer, response_id: str) -> Response:
    """Run a failed or cancelled response again under the same id. Its earlier attempts are kept."""

    def retry_if_ended(job: Job) -> Job:
        if job.status not in TRANSITIONS[Verb.RETRY].sources:
            raise WrongState(f"Cannot retry a response that is {job.status}.", "response_id")
        now = state.database.clock()
        with state.database.begin() as tx:
            document = get_response_document(tx, job.id, caller.id)
            seconds = document.settings.get("deadline_seconds") or state.settings.job_deadline_seconds
            return retry_job(tx, job, now, now + timedelta(seconds=seconds))

    job = _act_on_job(state, caller.id, response_id, retry_if_ended)
    # read before the message is sent: the answer shows the retry, not what became of it meanwhile
    rendered = read_body(state.database, job.id, caller.id, state.settings.provider_name)
    state.task_queue.enqueue([job.id])
    return rendered.to_response(state.database.clock())


@router.delete("/{response_id}", summary="Delete", responses={200: {"model": Deleted}})
def delete(state: StateDep, caller: Writer, response_id: str) -> Response:
    """Erase a response's prompt and answer. Its usage is kept. A running response is cancelled first."""

    def cancel_and_erase(job: Job) -> Job:
        with state.database.begin() as tx:  # one for both, so that no reader sees it cancelled and not erased
            cancelled = None if job.status.is_terminal else _cancel(tx, state, job)
            erase(tx, cancelled.jobs[0] if cancelled else job)
        if cancelled:
            _notify_cancelled(state, cancelled)
        return job

    job = _act_on_job(state, caller.id, response_id, cancel_and_erase)
    state.database.purge_deleted()  # if it fails, a worker's pruner does it within a minute
    return JSONResponse({"id": job.id, "object": "response", "deleted": True})


@router.get("/{response_id}/attempts", summary="Attempts", responses={200: {"model": AttemptPage}})
async def attempts(
    state: StateDep,
    caller: Reader,
    response_id: str,
    *,
    limit: Annotated[int, Query(ge=1, le=1000)] = 1000,
    after: Annotated[str | None, Query(max_length=64, description="the last id of the previous page")] = None,
    include: Annotated[
        Literal["body"] | None, Query(description="`body`: what the provider sent in failed calls")
    ] = None,
) -> Response:
    """List all calls to the provider for a response, oldest first. A page ends at 16 MB, with `has_more` set."""
    refuse_nul(response_id, "response_id")
    after_number = 0
    if after is not None:
        number = after.removeprefix(f"{response_id}:")
        if number == after or not number.isdecimal() or int(number) > LARGEST_NUMBER:
            raise RequestInvalid("Invalid 'after': it is not an attempt of this response.", "after", "invalid_value")
        after_number = int(number)
    listed = AttemptsListed(
        state, caller, response_id, limit=limit, after=after_number, with_bodies=include is not None
    )
    return ListedPage(state.lists, caller.id, listed)


def _may_have_been_billed(state: AppState, job: Job) -> bool:
    try:
        with state.database.read() as tx:
            return may_have_been_billed(tx, job.id)
    except DATABASE_ERRORS:  # unknown, and an SDK would repeat a 503
        return True


def _not_modified(summary: Job | ResponseSummary, if_none_match: str | None, now: datetime) -> Response | None:
    etag = etag_of(summary)
    if if_none_match is None or not _matches(if_none_match, etag):
        return None
    return Response(status_code=304, headers={"etag": etag, **poll_hint(summary, now)})


async def _body(state: AppState, summary: ResponseSummary, api_key_id: str) -> Response:
    body = state.response_cache.get(summary.id, etag_of(summary))
    if body is not None:
        return body_response(summary, body, state.database.clock())
    rendered = await state.bodies.do((summary.id, api_key_id))
    if rendered.job.status.is_terminal:
        state.response_cache.keep(summary.id, etag_of(rendered.job), rendered.body)
    return rendered.to_response(state.database.clock())


def _act_on_job(state: AppState, api_key_id: str, response_id: str, act: Callable[[Job], Job]) -> Job:
    """Apply `act` to the caller's job; read the job again whenever another process changed it first."""
    refuse_nul(response_id, "response_id")
    for _ in range(RACES):
        with state.database.read() as tx:
            job = get_job(tx, response_id, api_key_id)
        try:
            return act(job)
        except StaleJob:
            continue
    raise WrongState("The response is changing too quickly. Try again.", "response_id")


def _cancel(tx: Connection, state: AppState, job: Job) -> Moved:
    return move(tx, Verb.CANCEL, [(job, {})], state.database.clock(), by=Actor.CALLER)


def _notify_cancelled(state: AppState, cancelled: Moved) -> None:
    for job in cancelled.jobs:
        state.notifier.stop(job.id, job.attempt, AbortReason.CANCELLED)
        state.notifier.ended([job.id], cancelled.delivery_ids)


async def _summary(state: AppState, response_id: str, api_key_id: str) -> ResponseSummary:
    summary = await state.summaries.do((response_id, api_key_id))
    if summary is None:
        raise no_job(response_id)
    return summary


def _matches(if_none_match: str, etag: str) -> bool:
    return if_none_match.strip() == "*" or etag in {
        each.strip().removeprefix("W/") for each in if_none_match.split(",")
    }


def _utc(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def _labels(request: Request) -> Mapping[str, str]:
    labels = {}
    for name, value in request.query_params.items():
        found = METADATA_FILTER.fullmatch(name)
        if found:
            refuse_nul(name + value, name)
            labels[found[1]] = value
    if len(labels) > 16:
        raise RequestInvalid("Invalid 'metadata': a response has at most 16 labels.", "metadata", "invalid_value")
    return labels
