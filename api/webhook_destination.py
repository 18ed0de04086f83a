"""Checks where a caller wants webhooks sent, and seals what signs them, before either reaches a row."""

from api.dependencies import Parts
from api.request.body import CreateResponse
from jobs.encryption import VARIABLE
from jobs.errors import NotAllowed, RequestInvalid
from jobs.job import WebhookTarget
from jobs.store.api_keys import ApiKey, Scope
from jobs.webhooks.protocol import EventType
from jobs.webhooks.url_policy import NOWHERE, Receiver, ReceiverRefused, parse_receiver


async def checked_receiver(url: str, parts: Parts, api_key_id: str, param: str) -> Receiver:
    """Where `url` leads, if the operator's policy lets anything be sent there now.

    The guard at the sender has the last word at every delivery.

    Raises:
        RequestInvalid: it does not.
    """
    policy = parts.settings.receivers
    try:
        receiver = parse_receiver(url)
        policy.check_url(receiver)
    except ReceiverRefused as refusal:
        raise RequestInvalid(f"Invalid '{param}': {refusal}", param, "invalid_value") from None
    if receiver.address is None and not await parts.lookups.allows(api_key_id, receiver, policy):
        raise RequestInvalid(f"Invalid '{param}': {NOWHERE}", param, "invalid_value")
    return receiver


def receiver_key(api_key_id: str, receiver: Receiver) -> str:
    """What bounds deliveries at once: one tenant's receiver is not held up by another's use of the same server."""
    return f"{api_key_id} {receiver.origin}"


def require_sealing(parts: Parts, param: str | None, what: str = "Webhooks") -> None:
    """Refuse `what`, which needs a secret to be kept, where none could be.

    Raises:
        RequestInvalid: the operator has set no key.
    """
    if not parts.seal.is_there:
        message = f"{what} are not set up on this server: its operator has to set {VARIABLE}."
        raise RequestInvalid(message, param, "unsupported_parameter" if param else "webhooks_unavailable")


async def webhook_target(fields: CreateResponse, parts: Parts, caller: ApiKey) -> WebhookTarget | None:
    """Where a request wants its end told, checked and sealed; None when it names nothing.

    Raises:
        NotAllowed: the key lacks the scope.
        RequestInvalid: nothing may be sent there, or the request is not a background one.
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
        require_sealing(parts, "webhook")
    receiver = await checked_receiver(webhook.url, parts, caller.id, "webhook.url")
    return WebhookTarget(
        url=webhook.url,
        receiver=receiver_key(caller.id, receiver),
        event_types=tuple(dict.fromkeys(webhook.events or EventType)),
        secret=None if webhook.secret is None else parts.seal.seal(webhook.secret),
    )
