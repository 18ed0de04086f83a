"""What all parts of a request body share: objects that keep unknown fields, and unions that know their branch.

A union here is always decided by a discriminator, never tried branch by branch: the error then names the one field
that is wrong instead of listing why each of a dozen forms did not fit.
"""

from collections.abc import Callable, Iterable
from typing import Any, Final, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    model_validator,
)
from pydantic_core import PydanticCustomError, PydanticKnownError

# pydantic puts the branch of a union into the error's location; the mark tells it from a field's name.
BRANCH_MARK: Final = "\x1f"

# Error types of our own, beside pydantic's; `api.request.errors` puts all of them into OpenAI's words.
WRONG_SHAPE: Final = "wrong_shape"
WRONG_KIND: Final = "wrong_kind"
REFUSED: Final = "refused"
UNKNOWN_FIELD: Final = "unknown_field"


class Open(BaseModel):
    """An object of which we know some fields. Unknown ones are kept, so that a newer SDK works.

    Strict: `"16"`, `16.0` and `true` are not integers. No input in the error's text: a log must not show a prompt.
    """

    model_config = ConfigDict(strict=True, extra="allow", hide_input_in_errors=True)


class Unread(Open):
    """An object of a type that is not checked here: the provider's to know."""

    type: str


class Closed(Open):
    """An object of which we know all fields. pydantic's own way would make one error for each unknown one."""

    model_config = ConfigDict(json_schema_extra={"additionalProperties": False})

    @model_validator(mode="after")
    def _check_unknown(self) -> Self:
        if self.model_extra:
            raise PydanticCustomError(UNKNOWN_FIELD, "{name}", {"name": next(iter(self.model_extra))})
        return self


# A list with a million wrong elements makes one error, not a million.
FIRST_FAULT: Final = Field(fail_fast=True)


def at_most(entries: int) -> BeforeValidator:
    """Bound a map before its values are looked at, for the same reason."""

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
    """Choose among the branches `string`, `array` and `object` by what the JSON value is."""
    return Discriminator(_shape, custom_error_type=WRONG_SHAPE, custom_error_message=expected)


_SHAPES: Final[dict[type, str]] = {str: "string", list: "array", dict: "object"}


def _shape(value: object) -> str | None:
    shape = _SHAPES.get(type(value))
    return None if shape is None else BRANCH_MARK + shape


def by_kind(kinds: Iterable[str], choose: Callable[[dict[str, Any]], object] | None = None) -> Discriminator:
    """Choose among objects by their `type`, or by what `choose` makes of the object.

    Types among `kinds` have a branch of their name; every other one belongs to the branch `other`.
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
    """Refuse a value for a reason of our own; `reason` is a sentence for the caller, without braces."""
    return PydanticCustomError(REFUSED, reason)


def _without_nul(text: str) -> str:
    if "\0" in text:
        raise refused("it must not contain the NUL character.")
    return text


# For text that goes into a database column of its own, where PostgreSQL takes no NUL. A limit on the length has to
# stand before it: behind a function pydantic no longer knows that the value is a string.
WITHOUT_NUL: Final = AfterValidator(_without_nul)
