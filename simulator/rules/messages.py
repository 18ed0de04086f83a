"""The words in which a body is refused."""

import json
from typing import Any, Final

_RECEIVED: Final = 100


class BodyInvalid(ValueError):
    """The provider refuses the body; the text is its message. OpenAI tells `param` and `code` as well."""

    def __init__(self, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.code = code


def invalid(path: str, expected: str, received: Any) -> BodyInvalid:
    """The refusal of a value."""
    excerpt = json.dumps(received)[:_RECEIVED]
    return BodyInvalid(f"Body validation error\nInvalid value at '{path}'. Expected {expected}, received {excerpt}")


def missing(path: str, expected: str) -> BodyInvalid:
    """The refusal of a body that lacks a field."""
    return BodyInvalid(f"Body validation error\nRequired at '{path}'. Expected {expected}, received undefined")


def unrecognized(path: str, names: str) -> BodyInvalid:
    """The refusal of fields where the schema leaves no room for more."""
    return BodyInvalid(f"Body validation error\nUnrecognized keys at '{path}': {names}")
