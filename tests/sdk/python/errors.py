"""Every way to be refused, as the SDK's exception classes show it."""

from collections.abc import Callable
from contextlib import closing
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

import openai

from tests.sdk.python.responses import far_away, submit
from tests.sdk.python.user import MODEL, Absent, Facts, User, scenario

NOBODYS = "resp_00000000000000000000000000000000"
BIG = 400_000


def refusal(act: Callable[[], Any]) -> Facts:
    """What a user reads off the exception; `requests` says how often the SDK asked before it gave up."""
    try:
        act()
    except openai.APIStatusError as error:
        return {
            "class": type(error).__name__,
            "status": error.status_code,
            "type": error.type,
            "code": error.code,
            "param": error.param,
            "message": bool(error.message) and not error.message.endswith(f"code: {error.status_code}"),
            "request_id": (error.request_id or "")[:4],
            "requests": 1 + int(error.request.headers["x-stainless-retry-count"]),
        }
    return {}


@scenario
def error_classes(user: User) -> Facts:
    client = user.client()
    waiting = submit(user, extra_body={"run_at": far_away()})
    held_and_failed: dict[str, tuple[str, dict[str, Any]]] = {
        "provider refuses": ("400-value", {}),
        "context overflow": ("overflow", {}),
        "provider breaks": ("500", {"on_unknown_outcome": "fail"}),
        "provider is away": ("504", {"max_attempts": 1}),
        "answer is empty": ("empty", {}),
        "deadline": ("half-open", {"deadline_seconds": 4}),
    }

    def failing(directive: str, body: dict[str, Any]) -> Callable[[], Any]:
        return lambda: client.responses.create(model=MODEL, input=user.prompt(directive), extra_body=body)

    facts = {
        "bad value": refusal(lambda: client.responses.create(model=MODEL, input="x", max_output_tokens=3)),
        "no input": refusal(lambda: client.responses.create(model=MODEL)),
        "wrong type": refusal(lambda: client.responses.create(model=MODEL, input="x", extra_body={"background": 1})),
        "bad key": refusal(user.client(api_key="bb_wrong").models.list),
        "no scope": refusal(lambda: user.client(api_key=user.reader_key).responses.create(model=MODEL, input="x")),
        "unknown id": refusal(lambda: client.responses.retrieve(NOBODYS)),
        "somebody else's": refusal(lambda: user.client(api_key=user.reader_key).responses.retrieve(waiting.id)),
        "unknown model": refusal(lambda: client.models.retrieve("gpt-17")),
        "unknown path": refusal(lambda: client.get("/nowhere", cast_to=object)),
        "too large": refusal(lambda: client.responses.create(model=MODEL, input="x" * BIG)),
        **{name: refusal(failing(*each)) for name, each in held_and_failed.items()},
    }
    client.responses.cancel(waiting.id)
    return facts


@scenario
def deleted_response(user: User) -> Facts:
    client = user.client()
    submitted = submit(user, extra_body={"run_at": far_away()})
    client.responses.delete(submitted.id)
    return {
        "retrieve": refusal(lambda: client.responses.retrieve(submitted.id)),
        "cancel": refusal(lambda: client.responses.cancel(submitted.id)),
        "delete": refusal(lambda: client.responses.delete(submitted.id)),
    }


@scenario
def cancel_without_background(user: User) -> Facts:
    client = user.client()
    done = client.responses.create(model=MODEL, input=user.prompt())
    return refusal(lambda: client.responses.cancel(done.id))


@scenario
def conversation_is_refused(user: User) -> Facts:
    client = user.client()
    return {
        "create": refusal(lambda: client.responses.create(model=MODEL, input="x", conversation="conv_1")),
        "conversations": refusal(client.conversations.create),
    }


@scenario
def compact_is_refused(user: User) -> Facts:
    client = user.client()
    if not hasattr(client.responses, "compact"):
        raise Absent("responses.compact")
    return refusal(lambda: client.responses.compact(model=MODEL, input="x"))


@scenario
def models_cannot_be_deleted(user: User) -> Facts:
    return refusal(lambda: user.client().models.delete(MODEL))


@scenario
def websocket_is_refused(user: User) -> Facts:
    """The handshake of `responses.connect`, by hand: its library is an extra that few have."""
    address = urlsplit(user.base_url)
    handshake = {
        "Authorization": f"Bearer {user.api_key}",
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
    }
    connection = HTTPConnection(address.hostname or "", address.port, timeout=30)
    with closing(connection):
        connection.request("GET", f"{address.path}/responses", headers=handshake)
        return {"status": connection.getresponse().status}
