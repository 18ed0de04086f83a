"""The provider's response object: parsed tolerantly, normalised to OpenAI's shape."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

from jobs import text_limits
from jobs.encoding import TooDeep, read_json
from jobs.lifecycle import Status
from jobs.request_fields import WITHHELD_FIELDS
from worker.provider.clean_text import looks_like_html, name_of
from worker.provider.error_body import ProviderError, parse_error
from worker.provider.output import brings_output, normalise_output
from worker.provider.sse import begins_as_events
from worker.provider.stream_assembly import assemble
from worker.provider.usage import ReportedUsage, read_reported_usage

# This server sets these, or withholds them from the provider, so that an echo would be the provider's own default.
_NOT_ECHOED: Final = WITHHELD_FIELDS | {
    "id",
    "object",
    "created_at",
    "completed_at",
    "status",
    "model",
    "output",
    "output_text",
    "usage",
    "error",
    "incomplete_details",
    "meta",
    "backburner",
}
_STATUSES: Final = frozenset(Status)
_DEEPEST: Final = 100
_HALF_ESCAPED: Final = re.compile(r"\\u[dD][89a-fA-F]")
_HALF: Final = re.compile("[\ud800-\udfff]")


class Unreadable(ValueError):
    """The body is not a response object. The message says what it is instead, without quoting it."""


class TruncatedStream(Unreadable):
    """The body is a stream of events that ended before the answer was complete. `begun` is its first event's data."""

    def __init__(self, begun: Mapping[str, Any]) -> None:
        super().__init__("The provider's stream ended before its last event.")
        self.begun = begun


@dataclass(frozen=True)
class ParsedResponse:
    """A parsed response object. `fields` holds its output, its usage and what it echoes of the request."""

    status: Status
    fields: Mapping[str, Any]
    brings_output: bool
    usage: ReportedUsage
    error: ProviderError | None
    cut_reason: str | None
    id: str | None
    model: str | None


def read_response(body: bytes, *, is_broken: bool = False) -> ParsedResponse:
    """Parse the body of a 200: a response object, or a stream of events, whichever was requested.

    `is_broken` is true if the connection broke before the end of the body.

    Raises:
        TruncatedStream: the body is a stream of events that ended too early.
        Unreadable: the body is not JSON, is cut off, or is not a response object.
    """
    given = _parse(_put_together(body, is_broken=is_broken) if begins_as_events(body) else body)
    error = _error(given.get("error"))
    status = _status(given, error)
    usage = read_reported_usage(given.get("usage"), given.get("meta"))
    response_id = name_of(given.get("id"), text_limits.PROVIDER_ID)
    output = normalise_output(
        given.get("output"),
        given.get("output_text"),
        finished="incomplete" if status is Status.INCOMPLETE else "completed",
        seed=lambda: sha256(response_id.encode() if response_id else body).hexdigest()[:32],
    )
    echoes = {name: value for name, value in given.items() if name not in _NOT_ECHOED and value is not None}
    return ParsedResponse(
        status=status,
        fields={**echoes, "output": output, "usage": usage.as_json},
        brings_output=brings_output(output),
        usage=usage,
        error=error,
        cut_reason=_cut_reason(given) if status is Status.INCOMPLETE else None,
        id=response_id,
        model=name_of(given.get("model")),
    )


def _put_together(events: bytes, *, is_broken: bool) -> bytes:
    assembly = assemble(events, is_broken=is_broken)
    if assembly.is_answered:
        return assembly.body()
    if assembly.begun is None:
        raise Unreadable("The provider's answer is a stream of events, not JSON, and no event belongs to a response.")
    raise TruncatedStream(assembly.begun)


def _parse(body: bytes) -> dict[str, Any]:
    text = body.decode("utf-8-sig", "replace")
    if not text.strip():
        raise Unreadable("The provider's answer is empty.")
    try:
        value = read_json(text)
    except TooDeep:
        raise Unreadable("The provider's answer is nested too deeply.") from None
    except ValueError:
        if looks_like_html(text):
            raise Unreadable("The provider's answer is an HTML page, not JSON.") from None
        raise Unreadable(f"The provider's answer is not JSON, or is cut off ({len(body)} bytes received).") from None
    if not isinstance(value, dict):
        raise Unreadable("The provider's answer is JSON, but not an object.")
    if not _is_response(value):
        raise Unreadable("The provider's answer is JSON, but not a response object.")
    if text.count("[") + text.count("{") > _DEEPEST and _is_deeper(value, _DEEPEST):
        raise Unreadable("The provider's answer is nested too deeply.")
    return _whole_characters(value) if _HALF_ESCAPED.search(text) else value


def _is_response(value: Mapping[str, Any]) -> bool:
    return (
        value.get("object") == "response"
        or _known_status(value.get("status")) is not None
        or bool(value.get("error"))
        or "output" in value
        or "output_text" in value
    )


def _is_deeper(value: object, limit: int) -> bool:
    if isinstance(value, dict):
        return limit == 0 or any(_is_deeper(each, limit - 1) for each in value.values())
    if isinstance(value, list):
        return limit == 0 or any(_is_deeper(each, limit - 1) for each in value)
    return False


def _whole_characters(value: Any) -> Any:
    """Replace each lone half of a surrogate pair, which UTF-8 cannot encode, by U+FFFD."""
    if isinstance(value, str):
        return _HALF.sub("\ufffd", value)
    if isinstance(value, dict):
        return {_whole_characters(name): _whole_characters(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_whole_characters(each) for each in value]
    return value


def _error(error: object) -> ProviderError | None:
    found = parse_error(error)
    return found if found.message or found.code or found.status else None


def _status(given: Mapping[str, Any], error: ProviderError | None) -> Status:
    """Return the status as given. If it is none of OpenAI's six, derive it from the rest of the object."""
    status = _known_status(given.get("status"))
    if status is not None:
        return status
    if error is not None:
        return Status.FAILED
    details = given.get("incomplete_details")
    return Status.INCOMPLETE if isinstance(details, Mapping) and details.get("reason") else Status.COMPLETED


def _known_status(value: object) -> Status | None:
    return Status(value) if isinstance(value, str) and value in _STATUSES else None


def _cut_reason(given: Mapping[str, Any]) -> str:
    """Return why the answer was cut: one of the few reasons that clients know, by default the usual one."""
    details = given.get("incomplete_details")
    return (name_of(details.get("reason")) if isinstance(details, Mapping) else None) or "max_output_tokens"
