"""Webhooks instead of polling: endpoints managed by the SDK, and deliveries that it verifies."""

import base64
import hashlib
import hmac
import time
from typing import Any

import openai

from tests.sdk.python.errors import refusal
from tests.sdk.python.responses import submit
from tests.sdk.python.user import Absent, Facts, Json, User, scenario

ENDS = {"completed": "full", "incomplete": "incomplete", "failed": "400-value", "cancelled": "full delay=60"}
EVENTS: Any = [f"response.{end}" for end in ENDS]
OTHER_SECRET = "whsec_" + base64.b64encode(b"o" * 32).decode()
MINUTE = 60


def verdict(user: User, came: Json, secret: str) -> str:
    """The kind of event that `unwrap` finds, or the name of its refusal."""
    try:
        event = user.client().webhooks.unwrap(came["body"].encode(), came["headers"], secret=secret)
    except openai.InvalidWebhookSignatureError as error:
        return type(error).__name__
    return event.type


def signed(came: Json, secret: str, moment: float) -> Json:
    """The same webhook as it would have been signed at `moment`."""
    timestamp = str(int(moment))
    content = f"{came['headers']['webhook-id']}.{timestamp}.{came['body']}".encode()
    digest = hmac.new(base64.b64decode(secret.removeprefix("whsec_")), content, hashlib.sha256).digest()
    signature = f"v1,{base64.b64encode(digest).decode()}"
    return came | {"headers": came["headers"] | {"webhook-timestamp": timestamp, "webhook-signature": signature}}


@scenario
def webhook_of_every_end(user: User) -> Facts:
    """The request names the URL of its webhook, so that SDKs without endpoints can do it as well."""
    secret = user.webhook_secret
    own = {"webhook": {"url": user.hook, "secret": secret}}
    ids = {end: submit(user, directive, extra_body=own).id for end, directive in ENDS.items()}
    user.client().responses.cancel(ids["cancelled"])
    came = user.delivered(len(ENDS))
    client = user.client(webhook_secret=secret)
    events: list[Any] = [client.webhooks.unwrap(each["body"], each["headers"]) for each in came]
    reported = {event.data.id: [event.object, event.type, event.created_at > 0] for event in events}
    now = time.time()
    tampered = [each | {"body": each["body"].replace("resp_0", "resp_1")} for each in came]
    altered = {
        "a tampered byte": [verdict(user, each, secret) for each in tampered],
        "another secret": [verdict(user, each, OTHER_SECRET) for each in came],
        "of now": [verdict(user, signed(each, secret, now), secret) for each in came],
        "of six minutes ago": [verdict(user, signed(each, secret, now - 6 * MINUTE), secret) for each in came],
    }
    return {
        "reported": {end: reported[id_] for end, id_ in ids.items()},
        "ids": [event.id == each["headers"]["webhook-id"] for event, each in zip(events, came, strict=True)],
        **{name: sorted(set(verdicts)) for name, verdicts in altered.items()},
    }


@scenario
def webhook_endpoints(user: User) -> Facts:
    client = user.client()
    webhooks: Any = client.webhooks
    if not hasattr(webhooks, "create"):
        raise Absent("webhooks.create")
    made = webhooks.create(name="mine", url=user.hook, event_types=EVENTS)
    found = webhooks.retrieve(made.id)
    another = webhooks.create(name="another", url=user.hook, event_types=EVENTS[:1])
    pages = [each.id for each in webhooks.list(limit=1)]
    behind = [each.id for each in webhooks.list(after=another.id)]
    changed = webhooks.update(made.id, name="yours", url=f"{user.hook}?2", event_types=EVENTS[1:3])
    back = webhooks.update(made.id, url=user.hook)
    tested = webhooks.test(made.id, event_type=EVENTS[2])
    rotated = webhooks.rotate_secret(made.id, keep_old_secret_active_for_24_hours=True)
    webhooks.test(made.id, event_type=EVENTS[3])
    # other scenarios run under the same key, and an endpoint hears of their ends as well
    first, second = [each for each in user.delivered(2) if "resp_test" in each["body"]]
    gone = webhooks.delete(another.id)
    webhooks.delete(made.id)
    return {
        "found": [found.name, found.url == user.hook, found.event_types],
        "secret_shown": [bool(getattr(each, "signing_secret", "")) for each in (made, found, changed, rotated)],
        "pages": pages == [another.id, made.id],
        "after": behind == [made.id],
        "changed": [changed.name, changed.url == back.url, changed.event_types, back.url == user.hook],
        "tested": [tested.webhook_endpoint_id == made.id, tested.event_type, tested.status_code, tested.success],
        "first": [verdict(user, first, made.signing_secret), verdict(user, first, rotated.signing_secret)],
        "second": [verdict(user, second, made.signing_secret), verdict(user, second, rotated.signing_secret)],
        "event_types": webhooks.event_types.list().data,
        "gone": [gone.id == another.id, gone.deleted, refusal(lambda: webhooks.retrieve(another.id))],
        "private": refusal(lambda: webhooks.create(name="x", url="https://10.0.0.1/", event_types=EVENTS)),
    }
