"""Every failure as HTTP: errors of the caller, failed responses of held requests, and errors of this server.

`docs/errors.md` is generated from these tables. Errors always have OpenAI's shape,
`{"error": {"message", "type", "param", "code"}}`. They have `x-should-retry: false` if an SDK would otherwise repeat a
billed request by itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from api.body_reader import ACCEPTED
from api.failed_sign_ins import SignIns
from api.sdk_retry.tracker import TRACKED
from api.submit_batch import NotSubmitted, UnconfirmedSubmit
from jobs.batching import NotBegun
from jobs.errors import (
    CallerError,
    ChainBroken,
    DeliveryNotFound,
    EncodingUnsupported,
    EndpointNotFound,
    IdempotencyConflict,
    JobNotFound,
    KeyRefused,
    ModelUnknown,
    NotAllowed,
    NotOffered,
    RequestInvalid,
    RequestTooLarge,
    TestNotDelivered,
    TooManyEndpoints,
    TooManyHeld,
    WrongState,
)
from jobs.job import Job
from jobs.resource_shortage import shortage_of
from jobs.store.database import DATABASE_ERRORS
from jobs.store.sqlite_file import FileReplaced
from jobs.telemetry import get_logger

FINAL: Final = {"x-should-retry": "false"}
NOT_KEPT: Final = {"x-content-type-options": "nosniff", "cache-control": "no-store"}
"""Default headers of every answer: no sniffing of its type, and no copies in caches."""
INVALID_REQUEST: Final = "invalid_request_error"
RESPONSE_ID: Final = "openai-response-id"
"""Header with the response's id, so that a client that loses its connection can still get the response."""

log = get_logger(__name__)

# fmt: off
CALLER_ERRORS: Final[Mapping[type[CallerError], tuple[HTTPStatus, str]]] = {
    RequestInvalid:  (HTTPStatus.BAD_REQUEST,              INVALID_REQUEST),
    WrongState:      (HTTPStatus.BAD_REQUEST,              INVALID_REQUEST),
    ChainBroken:     (HTTPStatus.BAD_REQUEST,              INVALID_REQUEST),
    KeyRefused:      (HTTPStatus.UNAUTHORIZED,             "authentication_error"),
    NotAllowed:      (HTTPStatus.FORBIDDEN,                "permission_error"),
    JobNotFound:     (HTTPStatus.NOT_FOUND,                INVALID_REQUEST),
    EndpointNotFound: (HTTPStatus.NOT_FOUND,               INVALID_REQUEST),
    DeliveryNotFound: (HTTPStatus.NOT_FOUND,               INVALID_REQUEST),
    TooManyEndpoints: (HTTPStatus.BAD_REQUEST,             INVALID_REQUEST),
    TestNotDelivered: (HTTPStatus.BAD_REQUEST,             INVALID_REQUEST),
    ModelUnknown:    (HTTPStatus.NOT_FOUND,                INVALID_REQUEST),
    NotOffered:      (HTTPStatus.NOT_FOUND,                INVALID_REQUEST),
    IdempotencyConflict: (HTTPStatus.UNPROCESSABLE_ENTITY, INVALID_REQUEST),
    TooManyHeld:     (HTTPStatus.TOO_MANY_REQUESTS,        "rate_limit_error"),
    RequestTooLarge: (HTTPStatus.REQUEST_ENTITY_TOO_LARGE, INVALID_REQUEST),
    EncodingUnsupported: (HTTPStatus.UNSUPPORTED_MEDIA_TYPE, INVALID_REQUEST),
}

AGAIN_AFTER: Final[Mapping[type[CallerError], int]] = {TooManyHeld: 5}
"""Seconds after which a valid request that was refused may be sent again; nothing was billed for it."""
PROVIDER_BACK_AFTER: Final = 30
"""Seconds after which a request may be sent again that failed because the provider was unavailable: as long as the
pause between two probes."""

FAILED_RESPONSES: Final[Mapping[str, tuple[HTTPStatus, str]]] = {
    "context_length_exceeded": (HTTPStatus.BAD_REQUEST,         INVALID_REQUEST),
    "provider_rejected":       (HTTPStatus.BAD_REQUEST,         INVALID_REQUEST),
    "previous_response_not_found": (HTTPStatus.BAD_REQUEST,     INVALID_REQUEST),
    "previous_response_failed": (HTTPStatus.BAD_REQUEST,        INVALID_REQUEST),
    "model_unavailable":       (HTTPStatus.NOT_FOUND,           INVALID_REQUEST),
    "rate_limit_exceeded":     (HTTPStatus.TOO_MANY_REQUESTS,   "rate_limit_error"),
    "provider_auth":           (HTTPStatus.SERVICE_UNAVAILABLE, "server_error"),
    "provider_quota":          (HTTPStatus.SERVICE_UNAVAILABLE, "server_error"),
    "provider_unavailable":    (HTTPStatus.SERVICE_UNAVAILABLE, "server_error"),
    "malformed_answer":        (HTTPStatus.BAD_REQUEST,         INVALID_REQUEST),
    "empty_output":            (HTTPStatus.BAD_REQUEST,         INVALID_REQUEST),
    "outcome_unknown":         (HTTPStatus.BAD_REQUEST,         INVALID_REQUEST),
    "server_error":            (HTTPStatus.BAD_GATEWAY,         "server_error"),
    "deadline_exceeded":       (HTTPStatus.GATEWAY_TIMEOUT,     "server_error"),
}
FINAL_FAILURE: Final = (HTTPStatus.BAD_REQUEST, INVALID_REQUEST)
"""Answer to a provider's own error code (`invalid_prompt`, ...), and to every failure after a call that may have been
billed. Most clients repeat a 429 or 5xx up to six times whatever `x-should-retry` says, and each repeat would be
billed; a 400 stops them all (decision 0013)."""
FINAL_IN_STREAMS: Final = "invalid_prompt"
"""Code of a failed stream that must not be repeated: Codex and the AI SDK repeat after a code they do not know."""
KNOWN_AS_FINAL: Final = frozenset({FINAL_IN_STREAMS, "context_length_exceeded", "insufficient_quota"})


@dataclass(frozen=True)
class Fault:
    """An error without an exception class of its own. `param` and `should_retry` are words for docs/errors.md."""

    status: HTTPStatus
    type: str
    code: str | None
    when: str
    param: str = ""
    should_retry: str = "false"


NOT_ON_POST: Final = "false on POST, else missing"
BAD_PARAMETER: Final = Fault(HTTPStatus.BAD_REQUEST,           INVALID_REQUEST, "invalid_value",       "a parameter in path or query is wrong", param="the parameter")
NO_SUCH_PATH: Final  = Fault(HTTPStatus.NOT_FOUND,             INVALID_REQUEST, None,                  "nothing is served at this path")
WRONG_METHOD: Final  = Fault(HTTPStatus.METHOD_NOT_ALLOWED,    INVALID_REQUEST, None,                  "the path does not take this method")
NO_SOCKETS: Final    = Fault(HTTPStatus.UPGRADE_REQUIRED,      INVALID_REQUEST, "websocket_not_supported", "a WebSocket was requested")
BROKEN: Final        = Fault(HTTPStatus.INTERNAL_SERVER_ERROR, "server_error",  "server_error",        "an error of this server; the log has details")
NOT_HTTP: Final      = Fault(HTTPStatus.BAD_REQUEST,           INVALID_REQUEST, "invalid_http",        "the bytes sent are not HTTP/1.1")
HEAD_TOO_LARGE: Final = Fault(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, INVALID_REQUEST, "request_head_too_large", "the request line and headers, or the bytes between the chunks of a body, exceed 64 KB")
TOO_SLOW: Final      = Fault(HTTPStatus.REQUEST_TIMEOUT,       INVALID_REQUEST, "request_timeout",     "the request was not sent in time", should_retry="missing")
TOO_MANY_CONNECTIONS: Final = Fault(HTTPStatus.SERVICE_UNAVAILABLE, "server_error", "too_many_connections", "the process has its maximum number of connections", should_retry="missing")
DATABASE_AWAY: Final = Fault(HTTPStatus.SERVICE_UNAVAILABLE,   "server_error",  "service_unavailable", "the database does not answer", should_retry=NOT_ON_POST)
NOT_SUBMITTED: Final  = Fault(HTTPStatus.SERVICE_UNAVAILABLE,   "server_error",  "service_unavailable", "a create was not submitted, as the database does not answer or is locked; nothing was written", should_retry="missing")
UNCONFIRMED: Final   = Fault(HTTPStatus.SERVICE_UNAVAILABLE,   "server_error",  "acceptance_unknown",  "the database did not answer the commit of a create; the message and the header `openai-response-id` have the id to look for", should_retry="missing if a retry finds the response (an SDK's own retry, or one with an `Idempotency-Key`), else false")
SHORT: Final         = Fault(HTTPStatus.SERVICE_UNAVAILABLE,   "server_error",  "service_unavailable", "the process is out of files, memory or threads; the message names which", should_retry=NOT_ON_POST)
RESTARTING: Final    = Fault(HTTPStatus.SERVICE_UNAVAILABLE,   "server_error",  "service_unavailable", "the server stops; a held response continues, and the message has its id", should_retry=NOT_ON_POST)
TOO_MANY_READS: Final = Fault(HTTPStatus.TOO_MANY_REQUESTS,    "rate_limit_error", "rate_limit_exceeded", "the API key reads its maximum number of lists at once; SDKs retry", should_retry="missing")
FAULTS: Final = (
    TOO_MANY_READS, BAD_PARAMETER, NO_SUCH_PATH, WRONG_METHOD, NO_SOCKETS, NOT_HTTP, HEAD_TOO_LARGE, TOO_SLOW, TOO_MANY_CONNECTIONS, BROKEN, SHORT, DATABASE_AWAY, NOT_SUBMITTED, UNCONFIRMED, RESTARTING,
)
# fmt: on
FILE_REPLACED: Final = "The database's file was {} while this server runs. Nothing is written to it any more."


class ServerStopping(Exception):
    """The server stops while a request is held; its response continues."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"{job_id} continues without its client")
        self.job_id = job_id


class TooManyReads(Exception):
    """An API key reads its maximum number of lists at once, and none has ended in time."""

    def __init__(self, most: int) -> None:
        super().__init__(f"Too many lists are read with this API key: {most} at once. Try again.")


def error_body(message: str, kind: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """Return OpenAI's error object."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def status_of_failure(job: Job, *, may_have_been_billed: bool) -> tuple[HTTPStatus, str]:
    """Return the status and error type of a failed job. Clients may repeat it only if it was certainly not billed."""
    status, kind = FAILED_RESPONSES.get(job.error_code or "", FINAL_FAILURE)
    return FINAL_FAILURE if may_have_been_billed and _is_repeated(status) else (status, kind)


def error_in_streams(job: Job, *, may_have_been_billed: bool) -> dict[str, Any]:
    """Return the error code and type at the end of a failed job's stream; a final failure has a code known as final."""
    status, kind = status_of_failure(job, may_have_been_billed=may_have_been_billed)
    keeps = _is_repeated(status) or job.error_code in KNOWN_AS_FINAL
    return {"code": job.error_code if keeps else FINAL_IN_STREAMS, "type": kind}


def _is_repeated(status: HTTPStatus) -> bool:
    return status >= HTTPStatus.INTERNAL_SERVER_ERROR or status is HTTPStatus.TOO_MANY_REQUESTS


def failed_response(job: Job, *, may_have_been_billed: bool) -> JSONResponse:
    """Return the answer to a held request whose job failed. No SDK repeats it by itself."""
    status, kind = status_of_failure(job, may_have_been_billed=may_have_been_billed)
    body = error_body(job.error_message or "The response failed.", kind, job.error_param, job.error_code)
    headers = {**FINAL, RESPONSE_ID: job.id}
    if status is HTTPStatus.SERVICE_UNAVAILABLE:
        headers["retry-after"] = str(PROVIDER_BACK_AFTER)
    return JSONResponse(body, status, headers)


def install_error_handlers(app: FastAPI, sign_ins: SignIns) -> None:
    """Answer every exception of a handler in OpenAI's shape; failed sign-ins are also logged."""

    async def refused(request: Request, error: Exception) -> JSONResponse:
        if isinstance(error, KeyRefused):
            sign_ins.failed(request, error)
        return _caller_error(request, error)

    app.add_exception_handler(CallerError, refused)
    app.add_exception_handler(RequestValidationError, _bad_parameter)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(ServerStopping, _server_stopping)
    app.add_exception_handler(TooManyReads, _too_many_reads)
    app.add_exception_handler(NotSubmitted, _not_submitted)
    app.add_exception_handler(UnconfirmedSubmit, _unconfirmed)
    for error in (*DATABASE_ERRORS, NotBegun):
        app.add_exception_handler(error, _database_away)


def unexpected(error: Exception, method: str) -> JSONResponse:
    """Return the answer to an unexpected error, or to a lack of files, memory or threads; log the details."""
    shortage = shortage_of(error)
    if shortage is not None:
        log.error("request not served", reason=shortage)
        headers = {"retry-after": "2"} | (FINAL if method == "POST" else {})
        return _answer(SHORT, f"The server is short of something: {shortage}. Try again.", headers)
    log.error("request failed", error=type(error).__name__, exc_info=error)
    return _answer(BROKEN, "The server had an error while processing your request.", FINAL)


def no_socket(path: str, *, is_responses: bool) -> JSONResponse:
    """Return the answer to a WebSocket handshake. On the path of responses it says to use HTTP."""
    if is_responses:
        return _answer(NO_SOCKETS, "This server does not speak WebSocket. Use HTTP: POST the request here.", FINAL)
    return _answer(NO_SUCH_PATH, no_such_path("GET", path), FINAL)


def no_such_path(method: str, path: str) -> str:
    """Return the message for a path where nothing is served."""
    return f"Invalid URL ({method} {path})"


def _answer(fault: Fault, message: str, headers: Mapping[str, str], param: str | None = None) -> JSONResponse:
    return JSONResponse(error_body(message, fault.type, param, fault.code), fault.status, headers)


def _caller_error(_request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, CallerError):  # Starlette types handlers wider than it calls them
        raise error
    status, kind = CALLER_ERRORS[type(error)]
    headers = {"retry-after": str(AGAIN_AFTER[type(error)])} if type(error) in AGAIN_AFTER else dict(FINAL)
    if status is HTTPStatus.UNAUTHORIZED:
        headers["www-authenticate"] = "Bearer"
    elif status is HTTPStatus.UNSUPPORTED_MEDIA_TYPE:
        headers["accept-encoding"] = ACCEPTED
    return JSONResponse(error_body(error.message, kind, error.param, error.code), status, headers)


def _bad_parameter(_request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, RequestValidationError):
        raise error
    found = error.errors()[0]
    param = ".".join(str(part) for part in found["loc"][1:]) or None
    reason = found["msg"].replace("Input should be", "expected").removeprefix("Value error, ")
    return _answer(BAD_PARAMETER, f"Invalid '{param}': {reason}.", FINAL, param)


def _http_error(request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, HTTPException):
        raise error
    message = str(error.detail)
    if error.status_code == HTTPStatus.NOT_FOUND:
        message = no_such_path(request.method, request.url.path)
    elif error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        message = f"Not allowed: {request.method} {request.url.path}"
    headers = {**(error.headers or {}), **FINAL}
    return JSONResponse(error_body(message, INVALID_REQUEST), error.status_code, headers)


def _database_away(request: Request, error: Exception) -> JSONResponse:
    log.error("database failed", error=type(error).__name__, path=request.url.path)
    # a part may have been done, so only the caller can decide whether to send it again
    headers = {"retry-after": "2"} | (FINAL if request.method == "POST" else {})
    reason = _reason_of_file(error) or "The database does not answer."
    return _answer(DATABASE_AWAY, f"{reason} Try again.", headers)


def _reason_of_file(error: BaseException | None) -> str | None:
    return FILE_REPLACED.format(error.happened) if isinstance(error, FileReplaced) else None


def _not_submitted(request: Request, error: Exception) -> JSONResponse:
    cause = type(error.__cause__).__name__
    log.error("create not submitted", reason=str(error), error=cause, path=request.url.path)
    reason = _reason_of_file(error.__cause__) or str(error)
    message = f"{reason} Nothing was submitted. Try again."
    return _answer(NOT_SUBMITTED, message, {"retry-after": "2"})


def _unconfirmed(request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, UnconfirmedSubmit):
        raise error
    log.error("create not confirmed", job_id=error.job_id, path=request.url.path)
    message = (
        f"The database did not confirm the response '{error.job_id}'."
        " Get it by its id: if it exists it runs; if it is not found after a minute, nothing was submitted."
    )
    headers = {"retry-after": "2", RESPONSE_ID: error.job_id}
    tracked = request.scope.get(TRACKED)
    finds_it = "idempotency-key" in request.headers or (tracked is not None and tracked.request_id is not None)
    if not finds_it:  # sent again, it would be billed again
        headers |= FINAL
    return _answer(UNCONFIRMED, message, headers)


async def _too_many_reads(_request: Request, error: Exception) -> JSONResponse:
    return _answer(TOO_MANY_READS, str(error), {"retry-after": "1"})


async def _server_stopping(request: Request, error: Exception) -> JSONResponse:
    # async, as a stopping server does not wait for threads
    if not isinstance(error, ServerStopping):
        raise error
    message = f"The server is restarting. The response continues: get it by its id, '{error.job_id}'."
    headers = {"retry-after": "2", RESPONSE_ID: error.job_id} | (FINAL if request.method == "POST" else {})
    return _answer(RESTARTING, message, headers)
