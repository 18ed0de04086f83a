"""The messages with which a body is refused."""

import json
from typing import Any, Final

_RECEIVED: Final = 100


class BodyInvalid(ValueError):
    """The provider refuses the body with this message. OpenAI adds `param` and `code`."""

    def __init__(self, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.code = code


def invalid(path: str, expected: str, received: Any) -> BodyInvalid:
    """Return the error for an invalid value."""
    excerpt = json.dumps(received)[:_RECEIVED]
    return BodyInvalid(f"Body validation error\nInvalid value at '{path}'. Expected {expected}, received {excerpt}")


def missing(path: str, expected: str) -> BodyInvalid:
    """Return the error for a missing field."""
    return BodyInvalid(f"Body validation error\nRequired at '{path}'. Expected {expected}, received undefined")


def unrecognized(path: str, names: str) -> BodyInvalid:
    """Return the error for fields that the schema does not allow."""
    return BodyInvalid(f"Body validation error\nUnrecognized keys at '{path}': {names}")
