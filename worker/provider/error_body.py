"""The error in a provider's body, in any of the shapes that gateways use.

AI/ML API's own body is `{"message", "path", "requestId", "statusCode", "timestamp"}`. An upstream error is text inside
`message` (`400 {"type":"error","error":{...}}`). OpenAI's is `{"error": {...}}`. Other gateways nest the upstream's
text in `error.metadata.raw`, and proxies send HTML pages.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from jobs.encoding import read_first_json, read_json
from worker.provider.clean_text import looks_like_html, message_of, name_of, page_title

_DEEPEST: Final = 4


@dataclass(frozen=True)
class ProviderError:
    """An error in the provider's words. `status` is an HTTP status that was given in place of a code."""

    message: str = ""
    code: str | None = None
    category: str | None = None
    param: str | None = None
    status: int | None = None
    request_id: str | None = None


def read_error_body(body: bytes) -> ProviderError:
    """Return the error that the body of an HTTP error describes."""
    text = body.decode("utf-8-sig", "replace").strip()
    if looks_like_html(text):
        return ProviderError(page_title(text))
    try:
        value = read_json(text)
    except ValueError:
        return ProviderError(message_of(text))
    return parse_error(value)


def parse_error(value: object, depth: int = 0) -> ProviderError:
    """Return the error that a JSON value describes. The innermost words win, as they name the cause."""
    if isinstance(value, str):
        return _parse_text(value, depth)
    if isinstance(value, list) and depth <= _DEEPEST:
        messages = (parse_error(each, depth + 1).message for each in value)
        return ProviderError(message_of("; ".join(each for each in messages if each)))
    if not isinstance(value, Mapping) or depth > _DEEPEST:
        return ProviderError()
    found = _own_fields(value, depth)
    error = value.get("error")
    if isinstance(error, Mapping):
        found = _merged(found, parse_error(error, depth + 1))
    elif isinstance(error, str) and not found.message:
        found = _merged(found, _parse_text(error, depth))
    metadata = value.get("metadata")
    if isinstance(metadata, Mapping) and isinstance(metadata.get("raw"), str):
        found = _merged(found, _parse_text(metadata["raw"], depth))
    return found


def _own_fields(value: Mapping[str, Any], depth: int) -> ProviderError:
    text = next((value[name] for name in ("message", "detail", "msg", "title") if value.get(name)), None)
    inner = parse_error(text, depth + 1)
    code = value.get("code")
    return ProviderError(
        message=inner.message,
        code=inner.code or name_of(code),
        category=inner.category or name_of(value.get("type")),
        param=inner.param or name_of(value.get("param")),
        status=code if isinstance(code, int) and 400 <= code <= 599 else inner.status,
        request_id=name_of(value.get("requestId")) or name_of(value.get("request_id")),
    )


def _parse_text(text: str, depth: int) -> ProviderError:
    """Return plain words as a message, or parse an upstream's JSON that follows a few words such as `400 `."""
    start = text.find("{")
    if 0 <= start <= 200 and depth < _DEEPEST:
        try:
            nested = read_first_json(text, start)
        except ValueError:
            nested = None
        if isinstance(nested, Mapping):
            inner = parse_error(nested, depth + 1)
            if inner.message:
                return inner
    return ProviderError(message_of(text))


def _merged(outer: ProviderError, inner: ProviderError) -> ProviderError:
    return replace(
        inner,
        message=inner.message or outer.message,
        code=inner.code or outer.code,
        category=inner.category or outer.category,
        param=inner.param or outer.param,
        status=inner.status or outer.status,
        request_id=inner.request_id or outer.request_id,
    )
