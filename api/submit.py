"""From a client's bytes to an accepted job: check it, and hand it to the intake."""

from collections.abc import Collection, Mapping
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
from api.submit_batch import Owing, PendingSubmit
from api.webhook_destination import require_encryption, webhook_target
from jobs.errors import DuplicateRequest, RequestInvalid
from jobs.job import Job, JobSpec, OnUnknownOutcome, Truncation, WebhookTarget
from jobs.model_catalog import Model
from jobs.store.api_keys import is_only_key
from jobs.store.conversations import check_chain
from jobs.store.database import READ_SECONDS
from jobs.store.idempotency import Idempotency, find_earlier
from jobs.store.responses import ResponseDocument, get_response_document
from jobs.tool_credentials import hide

LONGEST_KEY: Final = 255
LARGE_BYTES: Final = 64 * 1024
"""A body above this takes so long to check and to write that nobody else is let wait for it."""
NOT_OFFERED: Final[Mapping[str, str]] = {
    "conversation": "Conversations are not kept by this server; name the last response as 'previous_response_id'.",
}


@dataclass(frozen=True)
class Submitted:
    """A job that is durable, and its response as it stands; `hold` where the answer lasts until the job ends."""

    job: Job
    document: ResponseDocument
    hold: Hold | None = None


async def accept(
    raw: bytes, state: AppState, submitter: Submitter, idempotency_key: str | None = None, owing: Owing | None = None
) -> Submitted:
    """Accept a job. It is durable once this returns, whether or not the bell was heard.

    A request sent again under its `idempotency_key` is given the job that it made the first time.

    Raises:
        IdempotencyConflict: the key was used with another body.
        RequestInvalid: the body is wrong.
        ModelUnknown: it asks for a model that is not offered.
        ChainBroken: it follows what is not there.
        KeyRefused: the key has been revoked.
        TooManyHeld: the answer would be held open, and the key has as many as it may have.
        ClientDisconnect: the one who is owed the answer has left.
        NotSubmitted: the database is away or locked; nothing was written.
        Unconfirmed: it went away over the commit, and nobody knows whether the job was made.
    """
    if idempotency_key is None:
        return await _accept(state, await _check(raw, state, submitter, owing=owing))
    caller = await submitter.confirmed()
    idempotency = Idempotency.of(caller.id, _usable(idempotency_key), raw)
    earlier = await run_in_threadpool(_earlier, state, idempotency)
    if earlier is not None:
        return _holding(earlier, state)
    order = await _check(raw, state, submitter, idempotency=idempotency)
    try:
        return await _accept(state, order)
    except DuplicateRequest:
        winner = await run_in_threadpool(_earlier, state, idempotency)
        if winner is None:  # it was deleted within this instant
            return await _accept(state, order)
        return _holding(winner, state)


async def _accept(state: AppState, order: PendingSubmit) -> Submitted:
    spec = order.spec
    try:
        job = await state.submit_batcher.accept(order)
    except BaseException:
        if order.hold is not None:
            order.hold.release()
        raise
    return Submitted(job, ResponseDocument(job, spec.settings, spec.metadata, None), order.hold)


def is_held(settings: Mapping[str, Any], *, background: bool) -> bool:
    """Whether the answer to a create with these settings lasts until the response has ended."""
    return not background or bool(settings.get("stream"))


def _holding(earlier: Submitted, state: AppState) -> Submitted:
    is_to_hold = is_held(earlier.document.settings, background=earlier.job.background)
    return replace(earlier, hold=state.holds.take(earlier.job.api_key_id)) if is_to_hold else earlier


def _usable(key: str) -> str:
    if not 0 < len(key) <= LONGEST_KEY:
        message = f"Invalid 'Idempotency-Key': expected 1 to {LONGEST_KEY} characters, but got {len(key)}."
        raise RequestInvalid(message, "Idempotency-Key", "invalid_value")
    return key


def _earlier(state: AppState, idempotency: Idempotency) -> Submitted | None:
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
    owing: Owing | None = None,
) -> PendingSubmit:
    """Check a request; a thread is left to what takes long or has to ask."""
    settings = state.settings
    is_large = len(raw) > LARGE_BYTES
    if is_large:
        request = await run_in_threadpool(parse_request, raw, max_attempts_limit=settings.max_attempts_limit)
    else:
        request = parse_request(raw, max_attempts_limit=settings.max_attempts_limit)
    fields = request.fields
    refuse_what_is_not_offered(fields)
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
        spec = replace(spec, waits=await run_in_threadpool(_has_to_wait, state, spec))
    # last of all, so that whatever else is wrong is told first; nothing has been bought yet
    hold = state.holds.take(spec.api_key_id) if is_held(spec.settings, background=spec.background) else None
    return PendingSubmit(submitter, spec, now, is_large, idempotency, owing, hold)


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


def _has_to_wait(state: AppState, spec: JobSpec) -> bool:
    with state.database.read(within=READ_SECONDS) as tx:
        return spec.previous_response_id is not None and check_chain(tx, spec.previous_response_id, spec.api_key_id)


def refuse_what_is_not_offered(fields: CreateResponse) -> None:
    """Refuse fields that mean something this server does not do; to ignore them would look like success.

    Raises:
        RequestInvalid: it has one.
    """
    for field, reason in NOT_OFFERED.items():
        if getattr(fields, field):
            raise RequestInvalid(f"Unsupported parameter: '{field}'. {reason}", field, "unsupported_parameter")


def _spec(
    request: ParsedRequest,
    model: Model,
    api_key_id: str,
    state: AppState,
    now: datetime,
    webhook: WebhookTarget | None,
) -> JobSpec:
    fields, settings = request.fields, state.settings
    run_at = datetime.fromtimestamp(fields.run_at, UTC) if fields.run_at is not None else None
    seconds = fields.deadline_seconds or settings.job_deadline_seconds
    deadline_at = now + timedelta(seconds=seconds)
    if run_at is not None and run_at >= deadline_at:
        raise RequestInvalid(
            "Invalid 'run_at': it lies behind the response's deadline; raise 'deadline_seconds'.",
            "run_at",
            "invalid_value",
        )
    shown, credentials = hide(request.body)
    if credentials:
        require_encryption(state, credentials.first_place, "Credentials of tools")
    body: dict[str, Any] = {**shown, "model": model.id}
    input_ = body.pop("input", None) or ""
    body.pop("webhook", None)  # its secret must not lie in a row unsealed
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
