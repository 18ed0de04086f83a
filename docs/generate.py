"""Write the files that are generated from code, listed in `GENERATED`. A test compares them."""

from http import HTTPStatus
from pathlib import Path

from pydantic import SecretStr

from api.errors import AGAIN_AFTER, CALLER_ERRORS, FAILED_RESPONSES, FAULTS, FINAL_FAILURE
from jobs.errors import (
    ERROR_CODES,
    CallerError,
    ChainBroken,
    IdempotencyConflict,
    JobNotFound,
    ModelUnknown,
    RequestInvalid,
    WrongState,
)
from jobs.lifecycle import OPEN, TRANSITIONS, Actor, Status
from jobs.retry import RULES, Repeat, Rule
from jobs.settings import Settings, variable_of

ROOT = Path(__file__).parents[1]
SDK_ERRORS = {
    400: "BadRequestError",
    401: "AuthenticationError",
    403: "PermissionDeniedError",
    404: "NotFoundError",
    409: "ConflictError",
    422: "UnprocessableEntityError",
    429: "RateLimitError",
}
REPEATED = {
    Repeat.NEVER: "no",
    Repeat.COUNTED: "yes",
    Repeat.UNCOUNTED: "yes, without using an attempt, once the provider takes calls",
    Repeat.IF_ALLOWED: "as `on_unknown_outcome` says",
}

PARAMS: dict[type[CallerError], str] = {
    RequestInvalid: "the field",
    WrongState: "`response_id`",
    ChainBroken: "`previous_response_id`",
    JobNotFound: "`response_id`",
    ModelUnknown: "`model`",
    IdempotencyConflict: "`Idempotency-Key`",
}
ERRORS_PAGE = """\
# Errors

Generated from `api/errors.py`, `jobs/errors.py` and `jobs/retry.py` by `make docs`.

The body is always `{{"error": {{"message", "type", "param", "code"}}}}`, and `x-request-id` is always set. The SDKs' exceptions
have these as `.type`, `.param`, `.code`, `.status_code` and `.request_id`. The names below are the Python SDK's. The Node SDK's
are the same, except that `APIStatusError` is `APIError` there.

`x-should-retry: false` keeps an SDK from repeating by itself what may have been paid for. Where it is missing, an SDK asks
again after `Retry-After`, at no cost.

## Errors in the request

The code for a wrong field is OpenAI's: `invalid_type`, `invalid_value`, `missing_required_parameter`, `unsupported_parameter`
and so on.

| HTTP | type | code | param | `x-should-retry` | SDK exception | when |
| --- | --- | --- | --- | --- | --- | --- |
{callers}

## Errors of the address and of this server

| HTTP | type | code | param | `x-should-retry` | SDK exception | when |
| --- | --- | --- | --- | --- | --- | --- |
{faults}

## Failures of a response

The code is `error.code` of the response. A held create (one without `background`) that fails is answered with this status and
the failure's message. Once any of its calls may have been billed, a 429 or 5xx becomes a 400, because most clients would repeat
the others and pay again. In a stream the code of the last event is `invalid_prompt` wherever the status is a 4xx that no client
repeats; `backburner.error.code` beside it is the one in this table. A 503 has `Retry-After`. A held or streamed create that has
waited `BACKBURNER_HELD_PATIENCE_SECONDS` for a provider that is away also gets `provider_unavailable`: nothing was billed. A
response fails with a kind if that kind is not tried again, or if no attempt is left.

| HTTP | type | code | param | `x-should-retry` | SDK exception | from the kinds |
| --- | --- | --- | --- | --- | --- | --- |
{failed}

## Failures of one call

The kind is `backburner.error.kind` of a response and `error.kind` of an attempt. A `context_overflow` is tried once more with
`truncation: auto` if `BACKBURNER_TRUNCATION_ON_OVERFLOW` is `auto`.

| kind | tried again | billed | then fails with |
| --- | --- | --- | --- |
{kinds}
"""


def render_lifecycle() -> str:
    """Return docs/lifecycle.md: the transitions as a diagram and as a table."""
    arrows = [
        f"    {source} --> {each.target}: {verb}"
        for verb, each in TRANSITIONS.items()
        for source in Status
        if source in each.sources
    ]
    rows = [
        f"| `{verb}` | {', '.join(f'`{source}`' for source in Status if source in each.sources)}"
        f" | `{each.target}` | {', '.join(actor for actor in Actor if actor in each.actors)} | {each.reason} |"
        for verb, each in TRANSITIONS.items()
    ]
    return "\n".join(
        [
            "# The life of a response",
            "",
            "Generated from `jobs/lifecycle.py` by `make docs`. That table is the only place that defines the transitions.",
            f"A response is open while it is {' or '.join(f'`{status}`' for status in Status if status in OPEN)};",
            "the other statuses are final, unless a caller asks for a retry.",
            "A job that waits for its next attempt is `queued`, with `available_at` in the future.",
            "",
            "```mermaid",
            "stateDiagram-v2",
            f"    [*] --> {Status.QUEUED}: submit",
            *arrows,
            "```",
            "",
            "| verb | from | to | actor | reason |",
            "| --- | --- | --- | --- | --- |",
            *rows,
            "",
        ]
    )


def sdk_error(status: int) -> str:
    """Return the name of the exception that both SDKs raise for an HTTP status."""
    return "InternalServerError" if status >= 500 else SDK_ERRORS.get(status, "APIStatusError")


def render_errors() -> str:
    """Return docs/errors.md: each failure with its HTTP answer, the SDK's exception and the retry rule."""
    callers = [
        _error_row(
            status,
            kind,
            error.code,
            PARAMS.get(error, ""),
            _should_retry(error),
            (error.__doc__ or "").partition("\n")[0],
        )
        for error, (status, kind) in CALLER_ERRORS.items()
    ]
    faults = [
        _error_row(each.status, each.type, each.code, each.param, each.should_retry, each.when) for each in FAULTS
    ]
    failed = [
        _error_row(status, kind, code, _param_of(code), "false", _kinds_of(code))
        for code, (status, kind) in FAILED_RESPONSES.items()
    ]
    own = "`answer_refused`, where the provider's answer names a code of its own, such as `invalid_prompt`"
    failed.append(_error_row(*FINAL_FAILURE, None, _param_of(""), "false", own))
    kinds = [
        f"| `{kind}` | {REPEATED[rule.repeat]}{_most(rule)} | {rule.billed} | `{ERROR_CODES[kind]}` |"
        for kind, rule in RULES.items()
    ]
    return ERRORS_PAGE.format(
        callers="\n".join(callers), faults="\n".join(faults), failed="\n".join(failed), kinds="\n".join(kinds)
    )


def _most(rule: Rule) -> str:
    """Return the limit on tries in all, or on tries that fail with the same kind."""
    if rule.max_same_failures is not None:
        return f", {rule.max_same_failures} such in all"
    return "" if rule.max_attempts is None else f", {rule.max_attempts} in all"


def _should_retry(error: type[CallerError]) -> str:
    return "missing" if error in AGAIN_AFTER else "false"


def _error_row(status: HTTPStatus, kind: str, code: str | None, param: str, should_retry: str, last: str) -> str:
    shown = "" if code is None else f"`{code}`"
    return f"| {status.value} | `{kind}` | {shown} | {param} | {should_retry} | `{sdk_error(status)}` | {last} |"


def _param_of(code: str) -> str:
    return "`previous_response_id`" if code.startswith("previous_response") else "as the provider says"


def _kinds_of(code: str) -> str:
    kinds = [kind for kind, each in ERROR_CODES.items() if each == code]
    if not kinds:
        return "none: no call was made"
    also = (
        ", and any call that may have been billed under `on_unknown_outcome: fail`" if code == "outcome_unknown" else ""
    )
    return ", ".join(f"`{kind}`" for kind in kinds) + also


def render_example() -> str:
    """Return `.env.example`: every variable with its default, commented out."""
    lines = ["# Every setting of Backburner with its default. Copy to .env and change what you need.", ""]
    for name, field in Settings.model_fields.items():
        lines += [f"# {field.description}", f"#{variable_of(name)}={_default_text(field.default)}", ""]
    return "\n".join(lines)


def _default_text(default: object) -> str:
    if default is None:
        return ""
    if isinstance(default, SecretStr):
        return default.get_secret_value()
    if isinstance(default, list):
        return ",".join(str(part) for part in default)
    if isinstance(default, bool):
        return str(default).lower()
    return str(default)


GENERATED = {
    ROOT / "docs/lifecycle.md": render_lifecycle,
    ROOT / "docs/errors.md": render_errors,
    ROOT / ".env.example": render_example,
}

if __name__ == "__main__":
    for path, render in GENERATED.items():
        path.write_text(render(), "utf-8")
