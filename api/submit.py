"""Submitting a create: parse and check its body, then write its job with the others that come at the same time."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from fastapi.concurrency import run_in_threadpool

from api.auth import Submitter
from api.dependencies import AppState
from api.held_limit import Hold
from api.item_references import names_items, resolve
from api.provider_references import first_provider_id, refuse_provider_ids
from api.request.body import CreateResponse, ParsedRequest, parse_request
from api.submit_batch import PendingSubmit, never
from api.webhook_destination import require_encryption, webhook_target
from jobs.errors import DuplicateRequest, RequestInvalid
from jobs.job import Job, JobSpec, OnUnknownOutcome, Truncation, WebhookTarget
from jobs.model_catalog import Model
from jobs.store.api_keys import is_only_key
from jobs.store.conversations import check_chain
from jobs.store.database import READ_SECONDS
from jobs.store.idempotency import Idempotency, find_earlier
from jobs.store.responses import ResponseDocument, get_response_document
from jobs.store.undelivered_creates import UndeliveredCreate
from jobs.tool_credentials import hide

LONGEST_KEY: Final = 255
LARGE_BYTES: Final = 64 * 1024
"""Size above which a body is checked in a thread and written alone, so that no other request waits for it."""
UNSUPPORTED: Final[Mapping[str, str]] = {
    "conversation": "Conversations are not kept by this server; name the last response as 'previous_response_id'."
}


@dataclass(frozen=True)
class Submitted:
    """A durable job and its response. `hold` is set if the response is sent when the job ends."""

    job: Job
    document: ResponseDocument
    hold: Hold | None = None


async def submit(
    raw: bytes,
    state: AppState,
    submitter: Submitter,
    idempotency_key: str | None = None,
    *,
    undelivered: UndeliveredCreate | None = None,
    client_has_left: Callable[[], bool] = never,
) -> Submitted:
    """Check a create's body and submit its job. The job is durable once this returns.

    A request sent again under its `idempotency_key` is given the job that it made the first time.

    Raises:
        IdempotencyConflict: the key was used with another body.
        RequestInvalid: the body is wrong.
        ModelUnknown: the model is not offered.
        ChainBroken: `previous_response_id` names no response of this API key.
        KeyRefused: the API key has been revoked.
        TooManyHeld: the response would be held, and the API key holds as many as it may.
        ClientDisconnect: `client_has_left` before the commit, and nothing was written.
        NotSubmitted: the database is away or locked; nothing was written.
        UnconfirmedSubmit: the database did not answer the commit; it is unknown whether the job was made.
    """
    if idempotency_key is None:
        pending = await _check(raw, state, submitter, undelivered=undelivered, client_has_left=client_has_left)
        return await _write(state, pending)
    caller = await submitter.confirmed()
    idempotency = Idempotency.of(caller.id, _checked(idempotency_key), raw)
    earlier = await run_in_threadpool(_find_earlier, state, idempotency)
    if earlier is not None:
        return _with_hold(earlier, state)
    pending = await _check(raw, state, submitter, idempotency=idempotency)
    try:
        return await _write(state, pending)
    except DuplicateRequest:
        earlier = await run_in_threadpool(_find_earlier, state, idempotency)
        if earlier is None:  # deleted between the two transactions
            return await _write(state, pending)
        return _with_hold(earlier, state)


async def _write(state: AppState, pending: PendingSubmit) -> Submitted:
    spec = pending.spec
    try:
        job = await state.submit_batcher.submit(pending)
    except BaseException:
        if pending.hold is not None:
            pending.hold.release()
        raise
    return Submitted(job, ResponseDocument(job, spec.settings, spec.metadata, None), pending.hold)


def is_held(settings: Mapping[str, Any], *, background: bool) -> bool:
    """Return whether the connection of a create with these settings stays open until its response has ended."""
    return not background or bool(settings.get("stream"))


def _with_hold(earlier: Submitted, state: AppState) -> Submitted:
    holds = is_held(earlier.document.settings, background=earlier.job.background)
    return replace(earlier, hold=state.holds.take(earlier.job.api_key_id)) if holds else earlier


def _checked(key: str) -> str:
    if not 0 < len(key) <= LONGEST_KEY:
        message = f"Invalid 'Idempotency-Key': expected 1 to {LONGEST_KEY} characters, but got {len(key)}."
        raise RequestInvalid(message, "Idempotency-Key", "invalid_value")
    return key


def _find_earlier(state: AppState, idempotency: Idempotency) -> Submitted | None:
    with state.database.read(within=READ_SECONDS) as tx:
        job_id = find_earlier(tx, idempotency)
        if job_id is None:
            return None
        document = get_response_document(tx, job_id, idempotency.api_key_id)
    return Submitted(document.job, document)


async def _check(
    raw: bytes,
    state: AppState,
    submitter: Submitter,
    *,
    idempotency: Idempotency | None = None,
    undelivered: UndeliveredCreate | None = None,
    client_has_left: Callable[[], bool] = never,
) -> PendingSubmit:
    """Check a request. Steps that take long or read the database run in a thread."""
    settings = state.settings
    is_large = len(raw) > LARGE_BYTES
    if is_large:
        request = await run_in_threadpool(parse_request, raw, max_attempts_limit=settings.max_attempts_limit)
    else:
        request = parse_request(raw, max_attempts_limit=settings.max_attempts_limit)
    fields = request.fields
    refuse_unsupported(fields)
    held: Collection[str] = ()
    if names_items(request.body.get("input")):
        caller = await submitter.confirmed()
        request, held = await run_in_threadpool(_with_items, state, request, caller.id)
    if settings.provider_ids != "allow" and first_provider_id(request.body, held) is not None:
        await run_in_threadpool(_refuse_provider_ids, state, request, held)
    webhook = None
    if fields.webhook is not None:
        webhook = await webhook_target(fields, state, await submitter.confirmed())
    model = state.catalogue.find(fields.model)
    now = state.database.clock()
    spec = _spec(request, model, submitter.last_known.id, state, now, webhook)
    if spec.previous_response_id is not None:
        await submitter.confirmed()
        spec = replace(spec, waits=await run_in_threadpool(_must_wait, state, spec))
    # last, so that a client is told of every other error first; nothing has been billed yet
    hold = state.holds.take(spec.api_key_id) if is_held(spec.settings, background=spec.background) else None
    return PendingSubmit(submitter, spec, now, is_large, idempotency, undelivered, client_has_left, hold)


def _with_items(state: AppState, request: ParsedRequest, api_key_id: str) -> tuple[ParsedRequest, Collection[str]]:
    with state.database.read(within=READ_SECONDS) as tx:
        resolved = resolve(tx, request.body["input"], api_key_id, request.fields.previous_response_id)
    return replace(request, body={**request.body, "input": resolved.input}), resolved.held


def _refuse_provider_ids(state: AppState, request: ParsedRequest, held: Collection[str]) -> None:
    if state.settings.provider_ids is None:
        with state.database.read(within=READ_SECONDS) as tx:
            if is_only_key(tx):
                return
    refuse_provider_ids(request.body, held)


def _must_wait(state: AppState, spec: JobSpec) -> bool:
    with state.database.read(within=READ_SECONDS) as tx:
        return spec.previous_response_id is not None and check_chain(tx, spec.previous_response_id, spec.api_key_id)


def refuse_unsupported(fields: CreateResponse) -> None:
    """Refuse fields that ask for what this server cannot do; a client would take silence for success.

    Raises:
        RequestInvalid: the request has such a field.
    """
    for field, reason in UNSUPPORTED.items():
        if getattr(fields, field):
            raise RequestInvalid(f"Unsupported parameter: '{field}'. {reason}", field, "unsupported_parameter")


def _spec(
    request: ParsedRequest, model: Model, api_key_id: str, state: AppState, now: datetime, webhook: WebhookTarget | None
) -> JobSpec:
    fields, settings = request.fields, state.settings
    run_at = datetime.fromtimestamp(fields.run_at, UTC) if fields.run_at is not None else None
    seconds = fields.deadline_seconds or settings.job_deadline_seconds
    deadline_at = now + timedelta(seconds=seconds)
    if run_at is not None and run_at >= deadline_at:
        raise RequestInvalid(
            "Invalid 'run_at': it is after the response's deadline; raise 'deadline_seconds'.",
            "run_at",
            "invalid_value",
        )
    shown, credentials = hide(request.body)
    if credentials:
        require_encryption(state, credentials.first_place, "Credentials of tools")
    body: dict[str, Any] = {**shown, "model": model.id}
    input_ = body.pop("input", None) or ""
    body.pop("webhook", None)  # its secret must not be stored unencrypted
    return JobSpec(
        api_key_id=api_key_id,
        model=model.id,
        settings=body,
        input=input_,
        deadline_at=deadline_at,
        max_attempts=fields.max_attempts or settings.max_attempts,
        on_unknown_outcome=OnUnknownOutcome(fields.on_unknown_outcome or settings.on_unknown_outcome),
        truncation=Truncation(fields.truncation or settings.truncation),
        background=bool(fields.background),
        priority=5 if fields.priority is None else fields.priority,
        run_at=run_at,
        metadata=fields.metadata or {},
        previous_response_id=fields.previous_response_id,
        store=fields.store is not False,
        webhook=webhook,
        credentials=credentials.encrypted(state.cipher) if credentials else None,
    )
