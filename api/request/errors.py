"""pydantic's errors in OpenAI's words: a message, the path to the field, and OpenAI's code.

The wording follows api.openai.com, so that what people find on the web about a message applies here too. Long values
are cut, and only values of enumerations are repeated, as a message must not contain a prompt.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from api.request.base import BRANCH_MARK, REFUSED, UNKNOWN_FIELD, WRONG_KIND, WRONG_SHAPE
from jobs.encoding import ExactNumber
from jobs.errors import RequestInvalid

# pydantic's error, the path to the field, the value there.
_Describe = Callable[[ErrorDetails, str, Any], RequestInvalid]

_LONGEST: Final = 64

_EXPECTED_TYPES: Final = {
    "string_type": "a string",
    "int_type": "an integer",
    "bool_type": "a boolean",
    "float_type": "a number",
    "list_type": "an array",
    "dict_type": "an object",
    "model_type": "an object",
}
_JSON_TYPES: Final = {
    str: "a string",
    bool: "a boolean",
    int: "an integer",
    float: "a decimal number",
    ExactNumber: "a number",
    list: "an array",
    dict: "an object",
    type(None): "null",
}


def request_invalid(error: ValidationError) -> RequestInvalid:
    """Return the first error in OpenAI's words. The fields are checked in OpenAI's order."""
    found = error.errors(include_url=False)[0]
    describe: _Describe = _DESCRIBED.get(found["type"], _refused)
    return describe(found, _path(found["loc"]), found["input"])


def value_above(param: str, limit: float, given: float) -> RequestInvalid:
    """Return the error for a number that is larger than `limit`."""
    return RequestInvalid(
        f"Invalid '{param}': {_number(given)} above maximum value."
        f" Expected a value <= {limit:.15g}, but got {given:.15g} instead.",
        param,
        f"{_number(given)}_above_max_value",
    )


def _path(location: Sequence[str | int]) -> str:
    path = ""
    for step in location:
        if isinstance(step, int):
            path += f"[{step}]"
        elif not step.startswith(BRANCH_MARK):
            path += f".{_cut(step)}" if path else _cut(step)
    return path


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _listed(values: Sequence[str], word: str) -> str:
    quoted = [f"'{value}'" for value in values]
    if len(quoted) <= 2:
        return f" {word} ".join(quoted)
    return f"{', '.join(quoted[:-1])}, {word} {quoted[-1]}"


def _number(value: float) -> str:
    return "integer" if isinstance(value, int) else "decimal"


def _wrong_type(path: str, expected: str, given: object) -> RequestInvalid:
    got = _JSON_TYPES[type(given)]
    return RequestInvalid(
        f"Invalid type for '{path}': expected {expected}, but got {got} instead.", path, "invalid_type"
    )


def _wrong_value(path: str, values: Sequence[str], given: object) -> RequestInvalid:
    if not isinstance(given, str):
        return _wrong_type(path, ("one of " if len(values) > 1 else "") + _listed(values, "or"), given)
    return RequestInvalid(
        f"Invalid value: '{_cut(given)}'. Supported values are: {_listed(values, 'and')}.", path, "invalid_value"
    )


def _missing(_found: ErrorDetails, path: str, _given: object) -> RequestInvalid:
    return RequestInvalid(f"Missing required parameter: '{path}'.", path, "missing_required_parameter")


def _of_type(found: ErrorDetails, path: str, given: object) -> RequestInvalid:
    return _wrong_type(path, _EXPECTED_TYPES[found["type"]], given)


def _of_shape(found: ErrorDetails, path: str, given: object) -> RequestInvalid:
    return _wrong_type(path, found["msg"], given)


def _of_literal(found: ErrorDetails, path: str, given: object) -> RequestInvalid:
    # pydantic lists the values in one text: 'a', 'b' or 'c'. Ours contain no quotes.
    return _wrong_value(path, re.findall(r"'([^']*)'", found["ctx"]["expected"]), given)


def _of_kind(found: ErrorDetails, path: str, given: object) -> RequestInvalid:
    if not isinstance(given, dict):
        return _wrong_type(path, "an object", given)
    if given.get("type") is None:
        return _missing(found, f"{path}.type", None)
    return _wrong_type(f"{path}.type", "a string", given["type"])


def _above(found: ErrorDetails, path: str, given: Any) -> RequestInvalid:
    return value_above(path, found["ctx"]["le"], given)


def _below(found: ErrorDetails, path: str, given: Any) -> RequestInvalid:
    sign, limit = (">=", found["ctx"]["ge"]) if "ge" in found["ctx"] else (">", found["ctx"]["gt"])
    return RequestInvalid(
        f"Invalid '{path}': {_number(given)} below minimum value."
        f" Expected a value {sign} {limit:.15g}, but got {given:.15g} instead.",
        path,
        f"{_number(given)}_below_min_value",
    )


def _long_text(found: ErrorDetails, path: str, given: Any) -> RequestInvalid:
    limit = found["ctx"]["max_length"]
    rest = f"Expected a string with maximum length {limit}, but got a string with length {len(given)} instead."
    if _is_metadata_key(found):
        message = f"Invalid property name in 'metadata': '{_cut(given)}' is too long. {rest}"
        return RequestInvalid(message, "metadata", "property_name_above_max_length")
    return RequestInvalid(f"Invalid '{path}': string too long. {rest}", path, "string_above_max_length")


def _is_metadata_key(found: ErrorDetails) -> bool:
    # pydantic's location of a key: the map's, the key, and this word.
    return found["loc"][0] == "metadata" and len(found["loc"]) == 3 and found["loc"][2] == "[key]"


def _long_collection(found: ErrorDetails, path: str, given: Any) -> RequestInvalid:
    limit = found["ctx"]["max_length"]
    if isinstance(given, dict):
        message = (
            f"Invalid '{path}': too many properties. Expected an object with at most {limit} properties,"
            f" but got an object with {len(given)} properties instead."
        )
        return RequestInvalid(message, path, "object_above_max_properties")
    message = (
        f"Invalid '{path}': array too long. Expected an array with maximum length {limit},"
        f" but got an array with length {len(given)} instead."
    )
    return RequestInvalid(message, path, "array_above_max_length")


def _empty(_found: ErrorDetails, path: str, given: object) -> RequestInvalid:
    kind, article = ("string", "a") if isinstance(given, str) else ("array", "an")
    return RequestInvalid(
        f"Invalid '{path}': empty {kind}. Expected {article} {kind} with minimum length 1,"
        f" but got an empty {kind} instead.",
        path,
        f"empty_{kind}",
    )


def _unknown(found: ErrorDetails, path: str, _given: object) -> RequestInvalid:
    path = f"{path}.{_cut(found['ctx']['name'])}"
    return RequestInvalid(f"Unknown parameter: '{path}'.", path, "unknown_parameter")


def _refused(found: ErrorDetails, path: str, _given: object) -> RequestInvalid:
    if _is_metadata_key(found):
        return RequestInvalid(f"Invalid property name in 'metadata': {found['msg']}", "metadata", "invalid_value")
    return RequestInvalid(f"Invalid '{path}': {found['msg']}", path, "invalid_value")


_DESCRIBED: Final[dict[str, _Describe]] = {
    **dict.fromkeys(_EXPECTED_TYPES, _of_type),
    WRONG_SHAPE: _of_shape,
    WRONG_KIND: _of_kind,
    REFUSED: _refused,
    "missing": _missing,
    "literal_error": _of_literal,
    "less_than_equal": _above,
    "greater_than_equal": _below,
    "greater_than": _below,
    "string_too_long": _long_text,
    "string_too_short": _empty,
    "too_long": _long_collection,
    "too_short": _empty,
    UNKNOWN_FIELD: _unknown,
}
