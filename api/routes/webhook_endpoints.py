"""`/webhook_endpoints` as in the SDK's `client.webhooks`, and Backburner's own: delivery log, redeliver, recover."""

import asyncio
import secrets
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse

from api.auth import was_revoked
from api.body_reader import read_request_body
from api.dependencies import AppState, StateDep, WebhookOwner
from api.request.base import refuse_nul
from api.response_body import render_page
from api.routes.responses import ERRORS
from api.webhook_bodies import (
    CreateEndpoint,
    DeliveryBody,
    DeliveryPage,
    EndpointBody,
    EndpointDeleted,
    EndpointPage,
    EndpointRecovery,
    EndpointTested,
    EndpointWithSecret,
    EventTypes,
    Recover,
    RotateSecret,
    TestEndpoint,
    UpdateEndpoint,
    parse,
    public_error,
    render_delivery,
    render_endpoint,
    request_body,
)
from api.webhook_destination import checked_destination, require_encryption, target_key
from jobs.errors import TestNotDelivered, WrongState
from jobs.store.api_keys import ApiKey
from jobs.store.webhooks import delivery_log
from jobs.store.webhooks import endpoints as store
from jobs.store.webhooks.delivery_log import Delivery
from jobs.store.webhooks.endpoints import EncryptedSecret
from jobs.store.webhooks.outbox import write_test
from jobs.webhooks.protocol import SECRET_BYTES, DeliveryStatus, EventType, new_secret

TEST_SECONDS = 30.0
HINT_CHARACTERS = 4

router = APIRouter(prefix="/webhook_endpoints", tags=["webhooks"], responses=ERRORS)
event_types = APIRouter(prefix="/webhook_event_types", tags=["webhooks"], responses=ERRORS)
deliveries = APIRouter(prefix="/webhook_deliveries", tags=["webhooks"], responses=ERRORS)
routers = (router, event_types, deliveries)

Limit = Annotated[int, Query(ge=1, le=100)]
After = Annotated[str | None, Query(max_length=64, description="the last id of the previous page")]


@router.post(
    "", summary="Register", responses={200: {"model": EndpointWithSecret}}, openapi_extra=request_body(CreateEndpoint)
)
async def create(request: Request, state: StateDep, caller: WebhookOwner) -> Response:
    """Register an endpoint. Its signing secret is shown only in this answer."""
    raw = await read_request_body(request, state.settings.max_body_bytes)
    asked = await run_in_threadpool(parse, CreateEndpoint, raw)
    require_encryption(state, None)
    destination = await checked_destination(asked.url, state, caller.id, "url")

    def register() -> Response:
        secret, encrypted = _fresh_secret(state)
        with state.database.begin() as tx:
            endpoint = store.create_endpoint(
                tx,
                caller.id,
                name=asked.name,
                url=asked.url,
                target=target_key(caller.id, destination),
                event_types=_event_types(asked.event_types),
                secret=encrypted,
                now=state.database.clock(),
            )
        return JSONResponse(render_endpoint(endpoint, state.database.clock(), secret))

    return await run_in_threadpool(register)


@router.get("", summary="List", responses={200: {"model": EndpointPage}})
def list_endpoints(state: StateDep, caller: WebhookOwner, *, limit: Limit = 20, after: After = None) -> Response:
    """List your endpoints, newest first."""
    refuse_nul(after, "after")
    with state.database.read() as tx:
        found, has_more = store.list_endpoints(tx, caller.id, limit=limit, after=after)
    now = state.database.clock()
    return JSONResponse(render_page([render_endpoint(each, now) for each in found], has_more=has_more))


@router.get("/{webhook_endpoint_id}", summary="Retrieve", responses={200: {"model": EndpointBody}})
def retrieve(state: StateDep, caller: WebhookOwner, webhook_endpoint_id: str) -> Response:
    """Get one endpoint, with its state."""
    refuse_nul(webhook_endpoint_id, "webhook_endpoint_id")
    with state.database.read() as tx:
        endpoint = store.get_endpoint(tx, webhook_endpoint_id, caller.id)
    return JSONResponse(render_endpoint(endpoint, state.database.clock()))


@router.post(
    "/{webhook_endpoint_id}",
    summary="Update",
    responses={200: {"model": EndpointBody}},
    openapi_extra=request_body(UpdateEndpoint),
)
async def update(request: Request, state: StateDep, caller: WebhookOwner, webhook_endpoint_id: str) -> Response:
    """Change an endpoint. Pending deliveries go to the new URL."""
    refuse_nul(webhook_endpoint_id, "webhook_endpoint_id")
    raw = await read_request_body(request, state.settings.max_body_bytes)
    asked = await run_in_threadpool(parse, UpdateEndpoint, raw)
    asked_for: dict[str, Any] = {}
    if asked.name is not None:
        asked_for["name"] = asked.name
    if asked.event_types is not None:
        asked_for["event_types"] = list(_event_types(asked.event_types))
    if asked.url is not None:
        destination = await checked_destination(asked.url, state, caller.id, "url")
        asked_for |= {"url": asked.url, "target": target_key(caller.id, destination)}

    def change() -> Response:
        now = state.database.clock()
        with state.database.begin() as tx:
            endpoint = store.get_endpoint(tx, webhook_endpoint_id, caller.id)
            changes = {name: value for name, value in asked_for.items() if _differs(endpoint, name, value)}
            enable = endpoint.disabled_at is not None and (asked.enabled is True or "url" in changes)
            endpoint = store.change_endpoint(tx, endpoint, changes, now, enable=enable)
        return JSONResponse(render_endpoint(endpoint, now))

    return await run_in_threadpool(change)


@router.delete("/{webhook_endpoint_id}", summary="Delete", responses={200: {"model": EndpointDeleted}})
def delete(state: StateDep, caller: WebhookOwner, webhook_endpoint_id: str) -> Response:
    """Erase an endpoint and its delivery log. Pending deliveries are not sent."""
    refuse_nul(webhook_endpoint_id, "webhook_endpoint_id")
    with state.database.begin() as tx:
        endpoint = store.get_endpoint(tx, webhook_endpoint_id, caller.id)
        store.delete_endpoint(tx, endpoint)
    return JSONResponse({"id": endpoint.id, "object": "webhook_endpoint.deleted", "deleted": True})


@router.post(
    "/{webhook_endpoint_id}/rotate_secret",
    summary="Rotate the secret",
    responses={200: {"model": EndpointWithSecret}},
    openapi_extra=request_body(RotateSecret),
)
async def rotate_secret(request: Request, state: StateDep, caller: WebhookOwner, webhook_endpoint_id: str) -> Response:
    """Replace the signing secret. The new one is shown only in this answer; the old one may sign for 24 hours more."""
    refuse_nul(webhook_endpoint_id, "webhook_endpoint_id")
    raw = await read_request_body(request, state.settings.max_body_bytes)

    def rotate() -> Response:
        keep_old = bool(parse(RotateSecret, raw).keep_old_secret_active_for_24_hours)
        require_encryption(state, None)
        secret, encrypted = _fresh_secret(state)
        now = state.database.clock()
        with state.database.begin() as tx:
            endpoint = store.get_endpoint(tx, webhook_endpoint_id, caller.id)
            endpoint = store.rotate_secret(tx, endpoint, encrypted, now, keep_old=keep_old)
        return JSONResponse(render_endpoint(endpoint, now, secret))

    return await run_in_threadpool(rotate)


@router.post(
    "/{webhook_endpoint_id}/test",
    summary="Test",
    responses={200: {"model": EndpointTested}},
    openapi_extra=request_body(TestEndpoint),
)
async def send_test(request: Request, state: StateDep, caller: WebhookOwner, webhook_endpoint_id: str) -> Response:
    """Send one test event, about a response that does not exist, and return the endpoint's answer."""
    refuse_nul(webhook_endpoint_id, "webhook_endpoint_id")
    raw = await read_request_body(request, state.settings.max_body_bytes)
    event_type = EventType(parse(TestEndpoint, raw).event_type)

    def send() -> str:
        with state.database.begin() as tx:
            endpoint = store.get_endpoint(tx, webhook_endpoint_id, caller.id)
            return write_test(tx, endpoint.id, caller.id, endpoint.target, event_type, state.database.clock())

    delivery_id = await run_in_threadpool(send)
    delivery = await _until_attempted(state, caller, delivery_id)
    if delivery.http_status is None:
        reason = public_error(delivery.error_kind) or "no worker took it"
        raise TestNotDelivered(f"The endpoint did not answer the test event: {reason}.", "webhook_endpoint_id")
    return JSONResponse(
        {
            "object": "webhook_endpoint.test",
            "webhook_endpoint_id": delivery.endpoint_id,
            "event_type": delivery.event_type,
            "status_code": delivery.http_status,
            "success": True,
        }
    )


@router.get("/{webhook_endpoint_id}/deliveries", summary="Deliveries", responses={200: {"model": DeliveryPage}})
def list_deliveries(
    state: StateDep,
    caller: WebhookOwner,
    webhook_endpoint_id: str,
    *,
    limit: Limit = 20,
    after: After = None,
    status: DeliveryStatus | None = None,
) -> Response:
    """List an endpoint's deliveries, newest first, with all delivery attempts. They are kept as long as responses."""
    refuse_nul(webhook_endpoint_id, "webhook_endpoint_id")
    refuse_nul(after, "after")
    with state.database.read() as tx:
        endpoint = store.get_endpoint(tx, webhook_endpoint_id, caller.id)
        found, has_more = delivery_log.list_deliveries(tx, endpoint, limit=limit, after=after, status=status)
    return JSONResponse(render_page([render_delivery(each) for each in found], has_more=has_more))


@router.post(
    "/{webhook_endpoint_id}/recover",
    summary="Recover",
    responses={200: {"model": EndpointRecovery}},
    openapi_extra=request_body(Recover),
)
async def recover(request: Request, state: StateDep, caller: WebhookOwner, webhook_endpoint_id: str) -> Response:
    """Send again each event since a moment that the endpoint has missed. A disabled endpoint is enabled."""
    refuse_nul(webhook_endpoint_id, "webhook_endpoint_id")
    raw = await read_request_body(request, state.settings.max_body_bytes)
    since = datetime.fromtimestamp(parse(Recover, raw).since, UTC)

    def restart() -> int:
        with state.database.begin() as tx:
            endpoint = store.get_endpoint(tx, webhook_endpoint_id, caller.id)
            return delivery_log.recover(tx, endpoint, since, state.database.clock())

    count = await run_in_threadpool(restart)
    return JSONResponse(
        {"object": "webhook_endpoint.recovery", "webhook_endpoint_id": webhook_endpoint_id, "deliveries": count}
    )


@event_types.get("", summary="Event types", responses={200: {"model": EventTypes}})
def list_event_types(_caller: WebhookOwner) -> Response:
    """List all event types."""
    return JSONResponse({"object": "list", "data": list(EventType)})


@deliveries.post("/{webhook_delivery_id}/redeliver", summary="Redeliver", responses={200: {"model": DeliveryBody}})
def redeliver(state: StateDep, caller: WebhookOwner, webhook_delivery_id: str) -> Response:
    """Send a delivery once more, now, whatever its status. The event keeps its id."""
    refuse_nul(webhook_delivery_id, "webhook_delivery_id")
    with state.database.begin() as tx:
        delivery = delivery_log.get_delivery(tx, webhook_delivery_id, caller.id)
        if not delivery_log.is_enabled(tx, delivery):
            raise WrongState("The endpoint is disabled: enable it, or recover what it missed.", "webhook_delivery_id")
        if not delivery_log.redeliver(tx, delivery.id, state.database.clock()):
            raise WrongState("It is being delivered at this moment.", "webhook_delivery_id")
        delivery = delivery_log.get_delivery(tx, webhook_delivery_id, caller.id)
    state.task_queue.enqueue_deliveries([delivery.id])
    return JSONResponse(render_delivery(delivery))


async def _until_attempted(state: AppState, caller: ApiKey, delivery_id: str) -> Delivery:
    """Return a test's delivery once it has ended, or after `TEST_SECONDS`."""

    def look() -> Delivery:
        with state.database.read() as tx:
            return delivery_log.get_delivery(tx, delivery_id, caller.id)

    until = asyncio.get_running_loop().time() + TEST_SECONDS
    with state.listener.subscribe(delivery_id) as subscription, state.key_watch.watch(caller.sha256) as revoked:
        revoked.add_done_callback(lambda _: subscription.wake())
        await run_in_threadpool(state.task_queue.enqueue_deliveries, [delivery_id])
        while True:
            delivery = await run_in_threadpool(look)
            if revoked.done():
                raise was_revoked(caller)
            left = until - asyncio.get_running_loop().time()
            if delivery.ended_at is not None or left <= 0:
                return delivery
            await subscription.wait(left)


def _fresh_secret(state: AppState) -> tuple[str, EncryptedSecret]:
    secret = new_secret(secrets.token_bytes(SECRET_BYTES))
    return secret, EncryptedSecret(state.cipher.encrypt(secret), f"whsec_***{secret[-HINT_CHARACTERS:]}")


def _event_types(names: list[Any]) -> tuple[EventType, ...]:
    return tuple(EventType(name) for name in dict.fromkeys(names))


def _differs(endpoint: store.Endpoint, name: str, value: object) -> bool:
    current = getattr(endpoint, name)
    return bool((list(current) if isinstance(current, tuple) else current) != value)
