"""Classification of one HTTP exchange: status, headers and body in, an answer or a kind of failure out.

The status decides unless the provider's own code or words say more. Quota and rate limits share 429, an invalid key and
an empty account share 403, and a context overflow is a 400 like any other. docs/errors.md lists the results.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Final
from urllib.parse import urlsplit

from jobs.errors import ErrorKind, Failure
from jobs.job import Answer, CallReport
from jobs.lifecycle import Status
from jobs.model_catalog import Model
from jobs.retry_after import pause_in_words, retry_after
from worker.provider.clean_text import name_of
from worker.provider.error_body import ProviderError, read_error_body
from worker.provider.response import ParsedResponse, TruncatedStream, Unreadable, read_response
from worker.provider.usage import cost_of_call

MOVED: Final = frozenset({301, 302, 307, 308})
"""Redirects before anything was done; we follow none, as our key is not for everybody."""
# Cloudflare had no connection to the provider itself: refused, no route, no handshake, a bad certificate, no address.
# 520 and 522 say less: https://developers.cloudflare.com/support/troubleshooting/http-status-codes/cloudflare-5xx-errors/
_NEVER_PASSED_ON: Final = frozenset({521, 523, 525, 526, 530})
_KIND_OF_STATUS: Final[Mapping[int, ErrorKind]] = MappingProxyType(
    {
        **dict.fromkeys(MOVED, ErrorKind.UNREACHABLE),
        401: ErrorKind.BAD_CREDENTIALS,
        402: ErrorKind.OUT_OF_CREDIT,
        403: ErrorKind.BAD_CREDENTIALS,
        404: ErrorKind.MODEL_UNAVAILABLE,
        407: ErrorKind.UNREACHABLE,  # a proxy between us and the provider refused the call
        408: ErrorKind.INTERRUPTED,
        410: ErrorKind.MODEL_UNAVAILABLE,
        425: ErrorKind.OVERLOADED,
        429: ErrorKind.RATE_LIMITED,
        503: ErrorKind.OVERLOADED,
        504: ErrorKind.GATEWAY_TIMEOUT,
        **dict.fromkeys(_NEVER_PASSED_ON, ErrorKind.UNREACHABLE),
        524: ErrorKind.GATEWAY_TIMEOUT,
        529: ErrorKind.OVERLOADED,
    }
)

# https://developers.openai.com/api/docs/guides/error-codes; a code may stand in `type` as well.
_KIND_OF_CODE: Final[Mapping[str, ErrorKind]] = MappingProxyType(
    {
        "context_length_exceeded": ErrorKind.CONTEXT_OVERFLOW,
        "model_not_found": ErrorKind.MODEL_UNAVAILABLE,
        "invalid_api_key": ErrorKind.BAD_CREDENTIALS,
        "insufficient_quota": ErrorKind.OUT_OF_CREDIT,
        "credit_balance_exhausted": ErrorKind.OUT_OF_CREDIT,
        "organization_spend_limit_exceeded": ErrorKind.OUT_OF_CREDIT,
        "project_spend_limit_exceeded": ErrorKind.OUT_OF_CREDIT,
        "organization_usage_limit_exceeded": ErrorKind.OUT_OF_CREDIT,
        "billing_hard_limit_reached": ErrorKind.OUT_OF_CREDIT,
        "billing_not_active": ErrorKind.OUT_OF_CREDIT,
        "slow_down": ErrorKind.RATE_LIMITED,
        "server_is_overloaded": ErrorKind.OVERLOADED,
        "overloaded_error": ErrorKind.OVERLOADED,
    }
)

# Codes inside a 200 after which another attempt may succeed. After any other code it would fail again.
_PASSING_CODES: Final = frozenset({"server_error", "rate_limit_exceeded", "vector_store_timeout"})
_OVERFLOW: Final = re.compile(
    r"exceeds? (the|this|your) (model'?s? )?(maximum )?context"
    r"|maximum context length"
    r"|context (length|window) (has been |is |was )?exceeded"
    r"|exceeds? .{0,60}\bcontext (length|window|size)"
    r"|(prompt|input) is too long"
    r"|reduce the length of (the|your) (messages|prompt|input)"
    r"|input tokens exceed",
    re.IGNORECASE,
)
_MODEL_GONE: Final = re.compile(
    r"no endpoints found|not a valid model"
    r"|\bmodel\b[^.]{0,100}\b(does not exist|not found|no longer (available|supported)|is (deprecated|retired)"
    r"|(has been|was) (deprecated|removed|retired|withdrawn|shut ?down|decommissioned))",
    re.IGNORECASE,
)
# A request that alone exceeds the account's limit per minute. It would be refused however long it waits.
_TOO_LARGE: Final = re.compile(r"\brequest too large\b", re.IGNORECASE)
_LIMIT_AND_REQUESTED: Final = re.compile(
    r"\blimit:? ([0-9][0-9,]{0,15})\b.{0,60}?\brequested:? ([0-9][0-9,]{0,15})\b", re.IGNORECASE
)
_NO_QUOTA: Final = re.compile(
    r"out of credits?|insufficient (credits?|balance|funds|quota)|exceeded your current quota|credit balance",
    re.IGNORECASE,
)
_NO_CREDIT: Final = re.compile(
    r"\b(credits?|balance|quota|spend|spending|limit|payment|plan|subscription)\b", re.IGNORECASE
)
# Words about the account, whatever the status: a prompt alone does not cause them.
_ABOUT_THE_ACCOUNT: Final = re.compile(
    r"(in|not a )valid api[- ]key|(requires?|provide) a valid api[- ]key|incorrect api[- ]key"
    r"|api[- ]key (is|was|has been|does)|out of credits?|insufficient (credits?|balance|funds|quota)"
    r"|exceeded your current quota|credit balance|top up your balance",
    re.IGNORECASE,
)
_MASKED: Final = re.compile(r"\S*\*{3,}\S*")
_REFUSED: Final[Mapping[ErrorKind, str]] = MappingProxyType(
    {
        ErrorKind.BAD_CREDENTIALS: "The provider refuses this server's API key{status}.",
        ErrorKind.OUT_OF_CREDIT: "The provider says that this server's account has no credit or quota left{status}.",
    }
)
# A refusal of the prompt, not of the account: one tenant's prompt must not pause the provider for all.
_FLAGGED: Final = re.compile(r"\bflagged\b|moderation|content[ _](policy|filter)|usage polic|bio_policy", re.IGNORECASE)

_KIND_OF_WORDS: Final[tuple[tuple[frozenset[int], re.Pattern[str], ErrorKind], ...]] = (
    (frozenset({400, 413, 422}), _OVERFLOW, ErrorKind.CONTEXT_OVERFLOW),
    (frozenset({400, 403, 422}), _MODEL_GONE, ErrorKind.MODEL_UNAVAILABLE),
    (frozenset({403}), _FLAGGED, ErrorKind.REJECTED),
    (frozenset({403}), _NO_CREDIT, ErrorKind.OUT_OF_CREDIT),
    (frozenset({429}), _NO_QUOTA, ErrorKind.OUT_OF_CREDIT),
)


def classify(
    status: int, headers: Mapping[str, str], body: bytes, model: Model, *, now: datetime, is_broken: bool = False
) -> CallReport:
    """Return the report of a finished exchange. `headers` must ignore case, or have lower-case names.

    `is_broken` is true if the connection broke before the end of the body.
    """
    if 200 <= status < 300:
        report = _report_success(status, headers, body, model, now, is_broken=is_broken)
    else:
        report = _report_error(status, headers, body, model, now)
    given_id = headers.get("x-inference-id") or headers.get("x-request-id")
    return replace(report, provider_request_id=name_of(given_id) or report.provider_request_id)


def pause_asked_for(headers: Mapping[str, str], now: datetime) -> timedelta | None:
    """Return the pause that the provider requests: `retry-after-ms`, else `Retry-After` in seconds or as a date."""
    pause = retry_after(headers.get("retry-after-ms", ""), now, unit=timedelta(milliseconds=1))
    return retry_after(headers.get("retry-after", ""), now) if pause is None else pause


def _report_error(status: int, headers: Mapping[str, str], body: bytes, model: Model, now: datetime) -> CallReport:
    error = read_error_body(body)
    failure = _reworded(
        Failure(
            kind=_kind_of_error(status, error),
            message=error.message or f"The provider answered HTTP {status} without a message.",
            http_status=status,
            retry_after=_pause(pause_asked_for(headers, now), error),
            provider_code=error.code or error.category,
            provider_param=error.param,
        ),
        error,
    )
    if 300 <= status < 400:
        failure = _redirected(failure, status, headers)
    return CallReport(
        failure, http_status=status, provider_request_id=error.request_id, cost=cost_of_call(None, headers, None, model)
    )


def _reworded(failure: Failure, error: ProviderError) -> Failure:
    """Return a refusal of our account in words fit for tenants: the provider's own may repeat part of our key."""
    words = _REFUSED.get(failure.kind)
    if words is None:
        return failure
    if _kind_of_code(error) is None and not _ABOUT_THE_ACCOUNT.search(error.message):
        return replace(failure, message=_MASKED.sub("***", failure.message))
    status = "" if failure.http_status in (None, 200) else f" (HTTP {failure.http_status})"
    message = f"{words.format(status=status)} Its operator has to fix that; no attempt was used up."
    return replace(failure, message=message, is_unmistakable=True)


def _redirected(failure: Failure, status: int, headers: Mapping[str, str]) -> Failure:
    try:
        target = urlsplit(headers.get("location", ""))
        place = f"{target.scheme}://{target.hostname}{target.path}" if target.hostname else target.path
    except ValueError:
        place = ""
    where = name_of(place) or "an address that it does not name"
    moved = f"HTTP {status}: it has moved to {where}"
    message = f"The provider answered {moved}. BACKBURNER_PROVIDER_BASE_URL holds the old address."
    return replace(failure, message=message, provider_code=None, unreachable_reason=moved if status in MOVED else None)


def _pause(asked_for: timedelta | None, error: ProviderError) -> timedelta | None:
    """Return the pause that the headers request, else the one that the error's words request."""
    return pause_in_words(error.message) if asked_for is None else asked_for


def _kind_of_error(status: int, error: ProviderError) -> ErrorKind:
    if status == 429 and _exceeds_limit(error):
        return ErrorKind.REJECTED
    return _kind_of_code(error) or _kind_of_words(status, error) or _kind_of_status(status)


def _exceeds_limit(error: ProviderError) -> bool:
    """Return whether the request alone exceeds the rate limit that refused it."""
    if _TOO_LARGE.search(error.message):
        return True
    found = _LIMIT_AND_REQUESTED.search(error.message)
    return found is not None and _number(found[1]) < _number(found[2])


def _number(digits: str) -> int:
    return int(digits.replace(",", ""))


def _kind_of_code(error: ProviderError) -> ErrorKind | None:
    codes = (code for code in (error.code, error.category) if code is not None)
    return next((_KIND_OF_CODE[code] for code in codes if code in _KIND_OF_CODE), None)


def _kind_of_words(status: int, error: ProviderError) -> ErrorKind | None:
    words = f"{error.code or ''} {error.category or ''} {error.message}"
    for statuses, pattern, kind in _KIND_OF_WORDS:
        if status in statuses and pattern.search(words):
            return kind
    if status == 404 and error.param not in (None, "model"):
        return ErrorKind.REJECTED  # the model exists; something else that the request refers to does not
    return None


def _kind_of_status(status: int) -> ErrorKind:
    return _KIND_OF_STATUS.get(status, ErrorKind.SERVER_ERROR if status >= 500 else ErrorKind.REJECTED)


def _report_success(
    status: int, headers: Mapping[str, str], body: bytes, model: Model, now: datetime, *, is_broken: bool
) -> CallReport:
    try:
        parsed = read_response(body, is_broken=is_broken)
    except Unreadable as error:
        kind = ErrorKind.INTERRUPTED if isinstance(error, TruncatedStream) else ErrorKind.MALFORMED_ANSWER
        failure = Failure(kind, str(error), status, pause_asked_for(headers, now))
        return CallReport(failure, status, body, cost=cost_of_call(None, headers, None, model))
    result = _result(parsed, status, pause_asked_for(headers, now))
    usage = parsed.usage.tokens
    # The price table gives the cost of an answer. A failed one costs nothing unless the provider says otherwise.
    priced = usage if isinstance(result, Answer) or result.kind is ErrorKind.EMPTY_OUTPUT else None
    return CallReport(
        result,
        http_status=status,
        raw=body,
        failed_response=parsed.fields if isinstance(result, Failure) and parsed.fields["output"] else None,
        provider_response_id=parsed.id,
        provider_model=parsed.model,
        usage=usage,
        cost=cost_of_call(parsed.usage.dollars, headers, priced, model),
    )


def _result(parsed: ParsedResponse, status: int, pause: timedelta | None) -> Answer | Failure:
    if parsed.error is not None or parsed.status is Status.FAILED:
        return _failed_answer(parsed.error or ProviderError(), status, pause)
    match parsed.status:
        case Status.CANCELLED:
            return Failure(ErrorKind.ANSWER_FAILED, "The provider cancelled the response.", status, pause)
        case Status.QUEUED | Status.IN_PROGRESS:
            message = (
                f"The provider answered at once with status {parsed.status}: it runs the call in the background,"
                " and this transport cannot fetch the answer."
            )
            return Failure(ErrorKind.MALFORMED_ANSWER, message, status, pause)
        case Status.INCOMPLETE:
            return Answer(parsed.fields, parsed.cut_reason)
        case _ if parsed.brings_output:
            return Answer(parsed.fields)
    message = "The provider's answer holds no text, no tool call and no refusal."
    return Failure(ErrorKind.EMPTY_OUTPUT, message, status, pause)


def _failed_answer(error: ProviderError, status: int, pause: timedelta | None) -> Failure:
    kind = _kind_of_code(error)
    if error.code == "rate_limit_exceeded" and _exceeds_limit(error):
        kind = ErrorKind.REJECTED
    if kind is None and error.status is not None:
        kind = _kind_of_error(error.status, error)
    if kind is None and _OVERFLOW.search(error.message):
        kind = ErrorKind.CONTEXT_OVERFLOW
    if kind is None:
        passing = error.code is None or error.code in _PASSING_CODES
        kind = ErrorKind.ANSWER_FAILED if passing else ErrorKind.ANSWER_REFUSED
    message = error.message or "The provider reports that the response failed, without a reason."
    pause = _pause(pause, error)
    return _reworded(Failure(kind, message, status, pause, error.code, error.param), error)
