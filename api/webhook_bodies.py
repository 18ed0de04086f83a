"""The bodies of the webhook routes: what comes in, as OpenAI's SDKs send it, and what leaves."""

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
    event_types: EventNames = Field(description="What it wants to hear of.")


class UpdateEndpoint(Open):
    """What to change of a webhook endpoint; a new `url` also enables it again."""

    name: Name | None = None
    url: DestinationUrl | None = None
    event_types: EventNames | None = None
    enabled: Literal[True] | None = Field(default=None, description="Backburner's own: enable a disabled endpoint.")


class RotateSecret(Open):
    """How to change the signing secret."""

    keep_old_secret_active_for_24_hours: bool | None = None


class TestEndpoint(Open):
    """Which event to send as a test."""

    __test__ = False  # pytest would take the name for a test's
    event_type: EventName


class Recover(Open):
    """Since when to send again what was missed."""

    since: Annotated[float, Field(ge=0, le=LATEST_MOMENT)] = Field(description="unix seconds")


M = TypeVar("M", bound=BaseModel)


def parse(kind: type[M], raw: bytes) -> M:
    """Read and check a body; where everything may be left out, so may the body.

    Raises:
        RequestInvalid: with the path of the first field that is wrong.
    """
    try:
        return kind.model_validate(read_object(raw or b"{}"))
    except ValidationError as error:
        raise request_invalid(error) from None


def request_body(kind: type[BaseModel]) -> dict[str, Any]:
    """`kind` on the OpenAPI page."""
    return {"requestBody": {"content": {"application/json": {"schema": kind.model_json_schema()}}, "required": True}}


def render_endpoint(endpoint: Endpoint, now: datetime, secret: str | None = None) -> dict[str, Any]:
    """An endpoint as the SDKs read it; `secret` is shown when it is new, and never again.

    How it fares is ours to tell: since when it fails, and when it is going to be disabled if that goes on.
    """
    since = endpoint.failing_since
    disables_at = None if since is None or endpoint.disabled_at is not None else since + DISABLE_AFTER
    warned = disables_at is not None and since is not None and now - since >= WARN_AFTER
    shown = {
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
            "failing_since": _moment(since),
            "disables_at": _moment(disables_at),
            "disabled_at": _moment(endpoint.disabled_at),
            "disabled_for": endpoint.disabled_for,
            "old_secret_until": _moment(endpoint.former_until),
        },
    }
    return shown if secret is None else {**shown, "signing_secret": secret}


def shown_error(error: DeliveryError | None) -> DeliveryError | None:
    """How a try went wrong, as its owner is told.

    One word for a name without an address and for one that leads inside: two would tell which internal names there are.
    """
    return DeliveryError.ADDRESS_REFUSED if error is DeliveryError.NAME_UNRESOLVED else error


def render_delivery(delivery: Delivery) -> dict[str, Any]:
    """One event on its way to one endpoint, with every try."""
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
        "ended_at": _moment(delivery.ended_at),
        "status_code": delivery.http_status,
        "error": shown_error(delivery.error_kind),
        "attempts": [_render_attempt(each) for each in delivery.attempts],
    }


def _render_attempt(made: DeliveryAttempt) -> dict[str, Any]:
    ended = made.ended_at
    return {
        "number": made.number,
        "started_at": made.started_at.timestamp(),
        "duration_ms": None if ended is None else round((ended - made.started_at).total_seconds() * 1000),
        "status_code": made.http_status,
        "error": shown_error(made.error_kind),
    }


def _moment(moment: datetime | None) -> float | None:
    return None if moment is None else moment.timestamp()


class _Shape(BaseModel):
    """A body on the OpenAPI page; bodies are rendered above, these only describe them."""


class EndpointFacts(_Shape):
    """How an endpoint fares; only this server says so."""

    status: Literal["enabled", "failing", "disabled"]
    failing_since: float | None
    disables_at: float | None = Field(description="when it is disabled if every delivery goes on failing")
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
    """A webhook endpoint with its signing secret, this once."""

    signing_secret: str


class EndpointPage(Page):
    """A page of webhook endpoints."""

    data: list[EndpointBody]


class EndpointDeleted(_Shape):
    """What is left of a deleted endpoint."""

    id: str
    object: Literal["webhook_endpoint.deleted"]
    deleted: Literal[True]


class EndpointTested(_Shape):
    """What an endpoint answered to a test event; any status counts as an answer."""

    object: Literal["webhook_endpoint.test"]
    webhook_endpoint_id: str
    event_type: EventType
    status_code: int
    success: Literal[True]


class EndpointRecovery(_Shape):
    """How many deliveries begin anew."""

    object: Literal["webhook_endpoint.recovery"]
    webhook_endpoint_id: str
    deliveries: int


class EventTypes(_Shape):
    """Everything that an endpoint can hear of."""

    object: Literal["list"]
    data: list[EventType]


class DeliveryAttemptBody(_Shape):
    """One request to a receiver."""

    number: int
    started_at: float
    duration_ms: int | None
    status_code: int | None
    error: DeliveryError | None


class DeliveryBody(_Shape):
    """One event on its way to one endpoint."""

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
    """A page of an endpoint's log."""

    data: list[DeliveryBody]
