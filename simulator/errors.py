"""The provider's HTTP errors, in its own words and body shapes.

The messages and the body `{"message", "path", "requestId", "statusCode", "timestamp"}` are from the provider's
documentation (docs/errors-and-messages in aimlapi/api-docs). An upstream error is text inside `message`. `statusCode`
was a string in its 429 sample and a number elsewhere.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum, auto
from http import HTTPStatus
from types import MappingProxyType
from typing import Final
from uuid import uuid4

from simulator.http_server import HTML, Reply
from simulator.rules import BodyInvalid, Rules
from simulator.script import Step


class _Shape(Enum):
    PROVIDER = auto()
    UPSTREAM = auto()
    OPENAI = auto()
    PAGE = auto()


@dataclass(frozen=True, slots=True)
class _Template:
    status: int
    message: str
    shape: _Shape = _Shape.PROVIDER
    code: str = ""


_NO_KEY: Final = (
    "This request requires a valid API key. You can create a new API key on the Billing page: "
    "https://aimlapi.com/app/keys"
)
_NO_CREDIT: Final = (
    "You've run out of credits. Please top up your balance or update your payment method to continue: "
    "https://aimlapi.com/app/billing/"
)
_FREE_TIER: Final = (
    "Free-tier limit: You've reached your free limit for the hour. Get AI/ML Subscription to use API, visit "
    "https://aimlapi.com/app/billing/ !"
)
_OVERFLOW: Final = "Your input exceeds the context window of this model. Please adjust your input and try again."
_QUOTA: Final = "You exceeded your current quota, please check your plan and billing details."
_MAINTENANCE: Final = "The model is under maintenance, please contact us at help@aimlapi.com."

_TEMPLATES: Final[Mapping[str, _Template]] = MappingProxyType(
    {
        "400": _Template(400, "Body validation error\nExpected string, received number"),
        "400-value": _Template(400, "Unsupported value: 'reasoning.effort' does not support 'high' with this model."),
        "overflow": _Template(400, _OVERFLOW, _Shape.UPSTREAM, "context_length_exceeded"),
        "401": _Template(401, _NO_KEY),
        "403": _Template(403, _NO_CREDIT),
        "404": _Template(404, "No endpoints found for this model."),
        "408": _Template(408, "Request Timeout"),
        "413": _Template(413, "request entity too large"),
        "422": _Template(422, "Unprocessable Entity"),
        "429": _Template(429, "Too Many Requests"),
        "429-free-tier": _Template(429, _FREE_TIER),
        "429-quota": _Template(429, _QUOTA, _Shape.OPENAI, "insufficient_quota"),
        "500": _Template(500, "Internal server error"),
        "500-upstream": _Template(500, "Something wrong with the server. Please, try again later."),
        "500-maintenance": _Template(500, _MAINTENANCE),
        "502": _Template(502, "Bad Gateway", _Shape.PAGE),
        "503": _Template(503, "Service unavailable"),
        "504": _Template(504, "Generation timeout"),
        "520": _Template(520, "Web server is returning an unknown error", _Shape.PAGE),
        "521": _Template(521, "Web server is down", _Shape.PAGE),
        "522": _Template(522, "Connection timed out", _Shape.PAGE),
        "523": _Template(523, "Origin is unreachable", _Shape.PAGE),
        "524": _Template(524, "A timeout occurred", _Shape.PAGE),
        "529": _Template(529, "Site is overloaded"),
    }
)


class HttpError(Exception):
    """Ends the call with an HTTP error."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.status)
        self.reply = reply


def error_reply(status: int, message: str, path: str) -> Reply:
    """Return an HTTP error in the provider's shape."""
    body = {
        "requestId": str(uuid4()),
        "statusCode": str(status) if status == HTTPStatus.TOO_MANY_REQUESTS else status,
        "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "path": path,
        "message": message,
    }
    return Reply.json(status, body)


def invalid_body_reply(error: BodyInvalid, rules: Rules, path: str) -> Reply:
    """Return the 400 for a body that breaks the rules, in the shape of the provider whose rules they are."""
    if rules != "openai":
        return error_reply(HTTPStatus.BAD_REQUEST, str(error), path)
    body = {"message": str(error), "type": "invalid_request_error", "param": error.param, "code": error.code}
    return Reply.json(HTTPStatus.BAD_REQUEST, {"error": body})


def named_reply(name: str, path: str) -> Reply:
    """Return the HTTP error of a step that has this name and no options."""
    return scripted_reply(Step(behaviour=name, source=name), path)


def scripted_reply(step: Step, path: str) -> Reply:
    """Return the HTTP error of a step."""
    template = _TEMPLATES.get(step.behaviour) or _plain_template(int(step.behaviour))
    message = step.message or template.message
    code = step.code or template.code
    match template.shape:
        case _Shape.PROVIDER:
            reply = error_reply(template.status, message, path)
        case _Shape.UPSTREAM:
            reply = error_reply(template.status, _upstream_text(template.status, message, code), path)
        case _Shape.OPENAI:
            error = {"message": message, "type": "insufficient_quota", "param": None, "code": code}
            reply = Reply.json(template.status, {"error": error})
        case _Shape.PAGE:
            page = _page(template.status, message)
            reply = Reply(template.status, page, HTML)
    reply.headers = {
        name: value
        for name, value in (("retry-after", step.retry_after), ("retry-after-ms", step.retry_after_ms))
        if value is not None
    }
    return reply


def _plain_template(status: int) -> _Template:
    try:
        return _Template(status, HTTPStatus(status).phrase)
    except ValueError:
        return _Template(status, "Unknown error")


def _upstream_text(status: int, message: str, code: str) -> str:
    error = {"type": "invalid_request_error", "code": code, "message": message, "param": "input"}
    return f"{status} " + json.dumps({"type": "error", "error": error}, separators=(",", ":"))


def _page(status: int, message: str) -> bytes:
    title = f"api.aimlapi.com | {status}: {message}"
    return (
        f"<!DOCTYPE html>\n<html>\n<head><title>{title}</title></head>\n"
        f"<body>\n<h1>{message} <span>Error code {status}</span></h1>\n</body>\n</html>\n"
    ).encode()
