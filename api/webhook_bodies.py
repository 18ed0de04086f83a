"""Bodies of the webhook routes: requests as OpenAI's SDKs send them, and answers."""

from datetime import datetime
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import BaseModel, Field, ValidationError

from api.request.base import FIRST_FAULT, WITHOUT_NUL, Open
from api.request.decode import read_object
from api.request.errors import request_invalid
from api.request.options import DestinationUrl
from api.response_body import Page
from jobs.store.webhooks.delivery_log import Delivery, DeliveryAttempt
from jobs.store.webhooks.endpoints import Endpoint
from jobs.webhooks.protocol import DISABLE_AFTER, WARN_AFTER, DeliveryError, DeliveryStatus, DisabledFor, EventType

LATEST_MOMENT: Final = 4e9

EventName = Literal["response.completed", "response.failed", "response.cancelled", "response.incomplete"]
EventNames = Annotated[list[EventName], FIRST_FAULT, Field(min_length=1, max_length=16)]
Name = Annotated[str, Field(min_length=1, max_length=256), WITHOUT_NUL]


class CreateEndpoint(Open):
    """A webhook endpoint to register."""

    name: Name
    url: DestinationUrl = Field(description="https unless the server allows http; private addresses are refused.")
    event_types: EventNames = Field(description="Events to send to this endpoint.")


class UpdateEndpoint(Open):
    """Changes to a webhook endpoint. A new `url` also enables a disabled endpoint."""

    name: Name | None = None
    url: DestinationUrl | None = None
    event_types: EventNames | None = None
    enabled: Literal[True] | None = Field(default=None, description="Backburner's own: enable a disabled endpoint.")


class RotateSecret(Open):
    """Options for changing the signing secret."""

    keep_old_secret_active_for_24_hours: bool | None = None


class TestEndpoint(Open):
    """The event to send as a test."""

    __test__ = False  # pytest would take it for a test
    event_type: EventName


class Recover(Open):
    """The moment from which missed events are sent again."""

    since: Annotated[float, Field(ge=0, le=LATEST_MOMENT)] = Field(description="unix seconds")


M = TypeVar("M", bound=BaseModel)


def parse(kind: type[M], raw: bytes) -> M:
    """Read and check a body. It may be empty if no field is required.

    Raises:
        RequestInvalid: a field is wrong; the error names the first one.
    """
    try:
        return kind.model_validate(read_object(raw or b"{}"))
    except ValidationError as error:
        raise request_invalid(error) from None


def request_body(kind: type[BaseModel]) -> dict[str, Any]:
    """Return the description of `kind` for the OpenAPI page."""
    return {"requestBody": {"content": {"application/json": {"schema": kind.model_json_schema()}}, "required": True}}


def render_endpoint(endpoint: Endpoint, now: datetime, secret: str | None = None) -> dict[str, Any]:
    """Return an endpoint as the SDKs read it. `secret` is only given, and shown, when it is new.

    `backburner` shows since when the endpoint fails, and when it will be disabled if it continues to.
    """
    since = endpoint.failing_since
    disables_at = None if since is None or endpoint.disabled_at is not None else since + DISABLE_AFTER
    warned = disables_at is not None and since is not None and now - since >= WARN_AFTER
    body = {
        "id": endpoint.id,
        "object": "webhook_endpoint",
        "created_at": int(endpoint.created_at.timestamp()),
        "updated_at": int(endpoint.updated_at.timestamp()),
        "name": endpoint.name,
        "url": endpoint.url,
        "event_types": list(endpoint.event_types),
        "signing_secret_hint": endpoint.secret_hint,
        "backburner": {
            "status": "disabled" if endpoint.disabled_at else "failing" if warned else "enabled",
            "failing_since": _timestamp(since),
            "disables_at": _timestamp(disables_at),
            "disabled_at": _timestamp(endpoint.disabled_at),
            "disabled_for": endpoint.disabled_for,
            "old_secret_until": _timestamp(endpoint.former_until),
        },
    }
    return body if secret is None else {**body, "signing_secret": secret}


def public_error(error: DeliveryError | None) -> DeliveryError | None:
    """Return a delivery's error as its owner may see it.

    A name without an address and a name with a private address share one error, so that it does not show which internal
    names exist.
    """
    return DeliveryError.ADDRESS_REFUSED if error is DeliveryError.NAME_UNRESOLVED else error


def render_delivery(delivery: Delivery) -> dict[str, Any]:
    """Return the delivery of one event to one endpoint, with all delivery attempts."""
    pending = delivery.status is DeliveryStatus.PENDING
    return {
        "id": delivery.id,
        "object": "webhook_delivery",
        "webhook_endpoint_id": delivery.endpoint_id,
        "event_id": delivery.event_id,
        "event_type": delivery.event_type,
        "response_id": delivery.response_id,
        "test": delivery.is_test,
        "status": delivery.status,
        "created_at": delivery.created_at.timestamp(),
        "next_attempt_at": delivery.available_at.timestamp() if pending else None,
        "ended_at": _timestamp(delivery.ended_at),
        "status_code": delivery.http_status,
        "error": public_error(delivery.error_kind),
        "attempts": [_render_attempt(each) for each in delivery.attempts],
    }


def _render_attempt(attempt: DeliveryAttempt) -> dict[str, Any]:
    ended_at = attempt.ended_at
    return {
        "number": attempt.number,
        "started_at": attempt.started_at.timestamp(),
        "duration_ms": None if ended_at is None else round((ended_at - attempt.started_at).total_seconds() * 1000),
        "status_code": attempt.http_status,
        "error": public_error(attempt.error_kind),
    }


def _timestamp(at: datetime | None) -> float | None:
    return None if at is None else at.timestamp()


class _Shape(BaseModel):
    """The shape of a body on the OpenAPI page. The functions above render the bodies."""


class EndpointFacts(_Shape):
    """Backburner's own facts about an endpoint."""

    status: Literal["enabled", "failing", "disabled"]
    failing_since: float | None
    disables_at: float | None = Field(description="when it will be disabled if all deliveries continue to fail")
    disabled_at: float | None
    disabled_for: DisabledFor | None
    old_secret_until: float | None


class EndpointBody(_Shape):
    """A webhook endpoint."""

    id: str
    object: Literal["webhook_endpoint"]
    created_at: int
    updated_at: int
    name: str
    url: str
    event_types: list[EventType]
    signing_secret_hint: str
    backburner: EndpointFacts


class EndpointWithSecret(EndpointBody):
    """A webhook endpoint with its signing secret, which is shown only once."""

    signing_secret: str


class EndpointPage(Page):
    """A page of webhook endpoints."""

    data: list[EndpointBody]


class EndpointDeleted(_Shape):
    """Confirmation that an endpoint was deleted."""

    id: str
    object: Literal["webhook_endpoint.deleted"]
    deleted: Literal[True]


class EndpointTested(_Shape):
    """The answer of an endpoint to a test event, whatever its status."""

    object: Literal["webhook_endpoint.test"]
    webhook_endpoint_id: str
    event_type: EventType
    status_code: int
    success: Literal[True]


class EndpointRecovery(_Shape):
    """The number of deliveries that are sent again."""

    object: Literal["webhook_endpoint.recovery"]
    webhook_endpoint_id: str
    deliveries: int


class EventTypes(_Shape):
    """All event types."""

    object: Literal["list"]
    data: list[EventType]


class DeliveryAttemptBody(_Shape):
    """One request to an endpoint."""

    number: int
    started_at: float
    duration_ms: int | None
    status_code: int | None
    error: DeliveryError | None


class DeliveryBody(_Shape):
    """The delivery of one event to one endpoint."""

    id: str
    object: Literal["webhook_delivery"]
    webhook_endpoint_id: str
    event_id: str
    event_type: EventType
    response_id: str
    test: bool
    status: DeliveryStatus
    created_at: float
    next_attempt_at: float | None
    ended_at: float | None
    status_code: int | None
    error: DeliveryError | None
    attempts: list[DeliveryAttemptBody]


class DeliveryPage(Page):
    """A page of an endpoint's delivery log."""

    data: list[DeliveryBody]
