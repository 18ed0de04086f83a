"""All errors as one tree; callers catch by branch.

    BackburnerError
    ├── CallerError             the client's request cannot be served; answered 4xx
    │   ├── RequestInvalid      400: a field is missing or wrong
    │   ├── RequestTooLarge     413
    │   ├── EncodingUnsupported 415: the body is compressed in a way that this server does not know
    │   ├── ChainBroken         400: the previous response is missing, failed or too long
    │   ├── ModelUnknown        404: this server does not offer the model
    │   ├── NotOffered          404: this server does not have this part of OpenAI's API
    │   ├── KeyRefused          401: no key, a wrong one, a revoked one
    │   ├── NotAllowed          403: the key lacks the scope
    │   ├── JobNotFound         404: no such response, or not the caller's
    │   ├── EndpointNotFound    404: no such webhook endpoint, or not the caller's
    │   ├── DeliveryNotFound    404: no such webhook delivery, or not the caller's
    │   ├── TooManyEndpoints    400: the key has the most webhook endpoints allowed
    │   ├── TestNotDelivered    400: a webhook endpoint did not answer its test event
    │   ├── TooManyHeld         429: the key has the most held requests, waits and streams allowed
    │   ├── IdempotencyConflict 422: the same Idempotency-Key with another body
    │   └── WrongState          400: the response's status does not allow this
    ├── DuplicateRequest        another request took the Idempotency-Key first: answer with its job
    ├── StaleJob                the job has moved on: record the attempt's cost, leave the job alone
    └── SettingsError           a setting is wrong; the program does not start

A provider's error is not an exception but a `Failure`, a value that `jobs.retry` turns into the next step.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from types import MappingProxyType
from typing import Final, Literal


class BackburnerError(Exception):
    """Root of the tree."""


class CallerError(BackburnerError):
    """A mistake of the caller.

    `param` is OpenAI's path to the field (`input[0].content`), `code` its machine-readable name.
    """

    code: str | None = None

    def __init__(self, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code if code is not None else type(self).code


class RequestInvalid(CallerError):
    """A field is missing, or has a wrong type or value."""


class RequestTooLarge(CallerError):
    """The body is larger than this server takes."""

    code = "request_too_large"


class EncodingUnsupported(CallerError):
    """The body is compressed in a way that this server does not know: its `Content-Encoding` is not listed."""

    code = "unsupported_content_encoding"


class ChainBroken(CallerError):
    """The previous response is gone, failed (`previous_response_failed`) or too long (`context_length_exceeded`).

    `response_id` names it.
    """

    code = "previous_response_not_found"

    def __init__(self, message: str, response_id: str, code: str | None = None) -> None:
        super().__init__(message, "previous_response_id", code)
        self.response_id = response_id


class ModelUnknown(CallerError):
    """The model is not offered by this server."""

    code = "model_not_found"


class NotOffered(CallerError):
    """OpenAI's API has this path, but this server does not."""

    code = "not_offered"


class KeyRefused(CallerError):
    """The API key is missing, unknown or revoked.

    `reason`, the key's SHA-256 as stored in the database, and the id of a known key are for the log.
    """

    code = "invalid_api_key"

    def __init__(
        self,
        message: str,
        reason: Literal["missing", "unknown", "revoked"],
        sha256: str | None = None,
        key_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.sha256 = sha256
        self.key_id = key_id


class NotAllowed(CallerError):
    """The API key is valid, but lacks the scope for this."""

    code = "insufficient_permissions"


class JobNotFound(CallerError):
    """There is no such response for this caller."""


class EndpointNotFound(CallerError):
    """There is no such webhook endpoint for this caller."""


class DeliveryNotFound(CallerError):
    """There is no such webhook delivery for this caller."""


class TooManyEndpoints(CallerError):
    """The key has the most webhook endpoints that it may have."""

    code = "too_many_webhook_endpoints"


class TestNotDelivered(CallerError):
    """The endpoint did not answer a test event."""

    __test__ = False  # pytest would collect it as a test
    code = "webhook_test_failed"


class TooManyHeld(CallerError):
    """The key has the most held requests, waits and streams that it may have open. Nothing was submitted."""

    code = "rate_limit_exceeded"


class IdempotencyConflict(CallerError):
    """The Idempotency-Key has been used for another request."""

    code = "idempotency_key_reused"


class WrongState(CallerError):
    """The response's status does not allow this operation."""


class DuplicateRequest(BackburnerError):
    """Another request with the same Idempotency-Key was submitted first; nothing of this one may be kept."""


class StaleJob(BackburnerError):
    """The row has left the verb's source statuses, or a later attempt owns it."""

    def __init__(self, job_id: str, verb: str) -> None:
        super().__init__(f"{verb} came too late for {job_id}")
        self.job_id = job_id
        self.verb = verb


class SettingsError(BackburnerError):
    """One or more settings are wrong; the message names every variable."""


class ErrorKind(StrEnum):
    """Kind of failure of one attempt; `docs/errors.md` has the table."""

    UNREACHABLE = "unreachable"
    RATE_LIMITED = "rate_limited"
    OVERLOADED = "overloaded"
    BAD_CREDENTIALS = "bad_credentials"
    OUT_OF_CREDIT = "out_of_credit"
    REJECTED = "rejected"
    MODEL_UNAVAILABLE = "model_unavailable"
    CONTEXT_OVERFLOW = "context_overflow"
    INTERRUPTED = "interrupted"
    SERVER_ERROR = "server_error"
    GATEWAY_TIMEOUT = "gateway_timeout"
    CALL_DEADLINE = "call_deadline"
    MALFORMED_ANSWER = "malformed_answer"
    ANSWER_FAILED = "answer_failed"
    ANSWER_REFUSED = "answer_refused"
    EMPTY_OUTPUT = "empty_output"
    LOST = "lost"
    JOB_DEADLINE = "job_deadline"


class Billed(StrEnum):
    """Probability that a call cost money."""

    NO = "no"
    UNKNOWN = "unknown"
    LIKELY = "likely"
    YES = "yes"


@dataclass(frozen=True)
class Failure:
    """The result of a call that brought no usable answer.

    `message` is safe to show to the tenant of the call (the provider's own words, cut to a few kB) and is never logged.
    `provider_code` is the provider's machine-readable code, if it gave one. `is_unmistakable` is true if a refusal
    clearly concerns the account and not the request. `is_our_addition` is true if the provider refuses a field that
    this server had added and will leave out. `shortage` names a resource that this server lacked, so that nothing was
    sent. `unreachable_reason` says in a few words why the provider could not be reached.
    """

    kind: ErrorKind
    message: str
    http_status: int | None = None
    retry_after: timedelta | None = None
    provider_code: str | None = None
    provider_param: str | None = None
    is_unmistakable: bool = False
    is_our_addition: bool = False
    shortage: str | None = None
    unreachable_reason: str | None = None

    @property
    def is_outage(self) -> bool:
        """Return whether it cost nothing and says nothing about the job: any other call would have failed too."""
        is_answer = self.http_status is not None and 200 <= self.http_status < 300
        return self.kind in OUTAGE_KINDS and not is_answer


OUTAGE_KINDS: Final = frozenset({ErrorKind.UNREACHABLE, ErrorKind.RATE_LIMITED, ErrorKind.OVERLOADED})

ERROR_CODES: Final[Mapping[ErrorKind, str]] = MappingProxyType(
    {
        ErrorKind.UNREACHABLE: "provider_unavailable",
        ErrorKind.RATE_LIMITED: "rate_limit_exceeded",
        ErrorKind.OVERLOADED: "provider_unavailable",
        ErrorKind.BAD_CREDENTIALS: "provider_auth",
        ErrorKind.OUT_OF_CREDIT: "provider_quota",
        ErrorKind.REJECTED: "provider_rejected",
        ErrorKind.MODEL_UNAVAILABLE: "model_unavailable",
        ErrorKind.CONTEXT_OVERFLOW: "context_length_exceeded",
        ErrorKind.INTERRUPTED: "provider_unavailable",
        ErrorKind.SERVER_ERROR: "server_error",
        ErrorKind.GATEWAY_TIMEOUT: "provider_unavailable",
        ErrorKind.CALL_DEADLINE: "deadline_exceeded",
        ErrorKind.MALFORMED_ANSWER: "malformed_answer",
        ErrorKind.ANSWER_FAILED: "server_error",
        ErrorKind.ANSWER_REFUSED: "provider_rejected",
        ErrorKind.EMPTY_OUTPUT: "empty_output",
        ErrorKind.LOST: "outcome_unknown",
        ErrorKind.JOB_DEADLINE: "deadline_exceeded",
    }
)
"""The response's `error.code` if a job ends with this kind: OpenAI's word where one fits, else ours."""
