"""Building blocks of request bodies: objects that keep unknown fields, and unions with discriminators.

A discriminator always chooses a union's branch; branches are never tried one by one. The error then names the one field
that is wrong, instead of all reasons why a dozen forms did not fit.
"""

from collections.abc import Callable, Iterable
from typing import Any, Final, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError, PydanticKnownError

from jobs.errors import RequestInvalid

# pydantic puts a union's branch into the error's location; the mark tells it from a field name.
BRANCH_MARK: Final = "\x1f"

# Error types besides pydantic's; `api.request.errors` words them all as OpenAI does.
WRONG_SHAPE: Final = "wrong_shape"
WRONG_KIND: Final = "wrong_kind"
REFUSED: Final = "refused"
UNKNOWN_FIELD: Final = "unknown_field"


class Open(BaseModel):
    """An object with some known fields. Unknown fields are kept, so that newer SDKs work.

    Strict: `"16"`, `16.0` and `true` are not integers. No input in error texts: logs must not show prompts.
    """

    model_config = ConfigDict(strict=True, extra="allow", hide_input_in_errors=True)


class Unread(Open):
    """An object of a type that is not checked here but by the provider."""

    type: str


class Closed(Open):
    """An object whose fields are all known. Makes one error, where pydantic makes one for each unknown field."""

    model_config = ConfigDict(json_schema_extra={"additionalProperties": False})

    @model_validator(mode="after")
    def _check_unknown(self) -> Self:
        if self.model_extra:
            raise PydanticCustomError(UNKNOWN_FIELD, "{name}", {"name": next(iter(self.model_extra))})
        return self


# A list with a million wrong elements makes one error, not a million.
FIRST_FAULT: Final = Field(fail_fast=True)


def at_most(entries: int) -> BeforeValidator:
    """Limit a map's size before its values are checked, for the same reason."""

    def check(value: object) -> object:
        if isinstance(value, dict) and len(value) > entries:
            raise PydanticKnownError(
                "too_long", {"field_type": "Dictionary", "max_length": entries, "actual_length": len(value)}
            )
        return value

    return BeforeValidator(check)


def branch(name: str) -> Tag:
    """Name a branch of a union."""
    return Tag(BRANCH_MARK + name)


def by_shape(expected: str) -> Discriminator:
    """Choose among the branches `string`, `array` and `object` by the JSON value's type."""
    return Discriminator(_shape, custom_error_type=WRONG_SHAPE, custom_error_message=expected)


_SHAPES: Final[dict[type, str]] = {str: "string", list: "array", dict: "object"}


def _shape(value: object) -> str | None:
    shape = _SHAPES.get(type(value))
    return None if shape is None else BRANCH_MARK + shape


def by_kind(kinds: Iterable[str], choose: Callable[[dict[str, Any]], object] | None = None) -> Discriminator:
    """Choose among objects by their `type`, or by the result of `choose`.

    Types in `kinds` have a branch of that name; all others have the branch `other`.
    """
    known = frozenset(kinds)

    def kind(value: object) -> str | None:
        if not isinstance(value, dict):
            return None
        chosen = value.get("type") if choose is None else choose(value)
        if not isinstance(chosen, str):
            return None
        return BRANCH_MARK + (chosen if chosen in known else "other")

    return Discriminator(kind, custom_error_type=WRONG_KIND, custom_error_message="an object with a type")


def refused(reason: str) -> PydanticCustomError:
    """Return an error for a value. `reason` is a sentence for the client, without braces."""
    return PydanticCustomError(REFUSED, reason)


def _has_nul(text: str) -> bool:
    """Return whether a text holds a character that PostgreSQL neither stores nor looks up."""
    return "\0" in text


def refuse_nul(text: str | None, param: str) -> None:
    """Refuse an id or a filter that a database cannot look up.

    Raises:
        RequestInvalid: it contains a NUL character.
    """
    if text is not None and _has_nul(text):
        raise RequestInvalid(f"Invalid '{param}': it contains a NUL character.", param, "invalid_value")


def _without_nul(text: str) -> str:
    if _has_nul(text):
        raise refused("it must not contain the NUL character.")
    return text


# For text stored in a database column of its own: PostgreSQL refuses NUL. Put a length limit before it, as pydantic
# does not know after a function that the value is a string.
WITHOUT_NUL: Final = AfterValidator(_without_nul)
