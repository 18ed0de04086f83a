"""Checking webhook destinations, and encrypting signing secrets, before they are stored."""

from api.dependencies import AppState
from api.request.body import CreateResponse
from jobs.encryption import VARIABLE
from jobs.errors import NotAllowed, RequestInvalid
from jobs.job import WebhookTarget
from jobs.store.api_keys import ApiKey, Scope
from jobs.webhooks.protocol import EventType
from jobs.webhooks.url_policy import NOWHERE, Destination, DestinationRefused, parse_destination


async def checked_destination(url: str, state: AppState, api_key_id: str, param: str) -> Destination:
    """Parse `url` and check it against the operator's policy.

    The sender checks the addresses again at every delivery.

    Raises:
        RequestInvalid: the policy does not allow it.
    """
    policy = state.settings.destination_policy
    try:
        destination = parse_destination(url)
        policy.check_url(destination)
    except DestinationRefused as refusal:
        raise RequestInvalid(f"Invalid '{param}': {refusal}", param, "invalid_value") from None
    if destination.address is None and not await state.lookups.allows(api_key_id, destination, policy):
        raise RequestInvalid(f"Invalid '{param}': {NOWHERE}", param, "invalid_value")
    return destination


def target_key(api_key_id: str, destination: Destination) -> str:
    """Return the delivery target, which limits concurrent deliveries: one API key's deliveries to one origin."""
    return f"{api_key_id} {destination.origin}"


def require_encryption(state: AppState, param: str | None, what: str = "Webhooks") -> None:
    """Refuse `what`, which needs an encrypted secret, if this server cannot encrypt.

    Raises:
        RequestInvalid: the operator has set no encryption key.
    """
    if not state.cipher.is_there:
        message = f"{what} are not set up on this server: its operator has to set {VARIABLE}."
        raise RequestInvalid(message, param, "unsupported_parameter" if param else "webhooks_unavailable")


async def webhook_target(fields: CreateResponse, state: AppState, caller: ApiKey) -> WebhookTarget | None:
    """Return the request's own webhook, checked and with its secret encrypted; None if it has none.

    Raises:
        NotAllowed: the API key lacks the scope.
        RequestInvalid: the destination is not allowed, or the request is not a background one.
    """
    webhook = fields.webhook
    if webhook is None:
        return None
    if Scope.WEBHOOKS not in caller.scopes:
        raise NotAllowed(f"This API key lacks the scope '{Scope.WEBHOOKS}'.", "webhook")
    if not fields.background:
        message = "Unsupported parameter: 'webhook'. Only background responses send webhooks; set 'background' to true."
        raise RequestInvalid(message, "webhook", "unsupported_parameter")
    if webhook.secret is not None:
        require_encryption(state, "webhook")
    destination = await checked_destination(webhook.url, state, caller.id, "webhook.url")
    return WebhookTarget(
        url=webhook.url,
        target=target_key(caller.id, destination),
        event_types=tuple(dict.fromkeys(webhook.events or EventType)),
        secret=None if webhook.secret is None else state.cipher.encrypt(webhook.secret),
    )
