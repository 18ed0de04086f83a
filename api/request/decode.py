"""Decoding a body's bytes to a JSON object, without values that break later steps.

`json.loads` accepts what must be refused: NaN, duplicate keys (the meant value is unknown), half of a surrogate pair
(it cannot be encoded as UTF-8), and nesting that overflows the stack of later code. It also rounds numbers, which must
be passed on as they came.
"""

import json
import math
import re
from collections import Counter
from typing import Any, Final, NoReturn

from jobs.encoding import ExactNumber, read_decimal, read_integer
from jobs.errors import RequestInvalid

MAX_DEPTH: Final = 128
_SURROGATE_ESCAPE: Final = re.compile(rb"\\u[dD][89a-fA-F]")


def read_object(raw: bytes) -> dict[str, Any]:
    """Parse the body.

    Raises:
        RequestInvalid: it is not one JSON object in UTF-8, or has one of the values named above.
    """
    if not raw or raw.isspace():
        _refuse("The request body is empty: expected a JSON object.")
    try:
        value = _DECODER.decode(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        _refuse(f"The request body is not valid UTF-8 (at byte {error.start}).")
    except json.JSONDecodeError as error:
        _refuse(f"The request body is not valid JSON: {error.msg} (line {error.lineno}, column {error.colno}).")
    except RecursionError:
        _refuse(_TOO_DEEP)
    if not isinstance(value, dict):
        _refuse("The request body must be a JSON object.")
    _check_depth(value)
    value |= {name: _setting(each) for name, each in value.items() if isinstance(each, ExactNumber)}
    # Only an escape can contain a surrogate, as UTF-8 cannot; so nearly no body needs this check.
    if _SURROGATE_ESCAPE.search(raw):
        _check_surrogates(value)
    return value


_TOO_DEEP: Final = f"The request body is nested too deeply: at most {MAX_DEPTH} levels are supported."


def _refuse(message: str, param: str | None = None) -> NoReturn:
    raise RequestInvalid(message, param, "invalid_json") from None


def _check_depth(value: dict[str, Any]) -> None:
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for parent in level
            for child in (parent.values() if type(parent) is dict else parent)
            if type(child) is dict or type(child) is list
        ]
        if not level:
            return
    _refuse(_TOO_DEEP)


def _check_surrogates(body: dict[str, Any]) -> None:
    for key, value in body.items():
        for part, param in ((key, None), (value, key[:64])):
            try:
                json.dumps(part, ensure_ascii=False, default=str).encode()
            except UnicodeEncodeError:
                _refuse(
                    "The request body contains half of a surrogate pair (\\ud800 to \\udfff), which is not text.", param
                )


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        ((twice, _count),) = Counter(key for key, _ in pairs).most_common(1)
        _refuse(f"The request body names the key {twice[:64]!a} twice in one object.")
    return found


def _setting(number: ExactNumber) -> float:
    """Return a top-level number as a double: the request's own settings are integers or doubles."""
    if number.text.removeprefix("-").isdecimal():
        _refuse("The request body contains an integer that does not fit into 64 bits.")
    value = float(number.text)
    if math.isinf(value):
        _refuse("The request body contains a number that is too large.")
    return value


def _constant(name: str) -> NoReturn:
    _refuse(f"The request body is not valid JSON: {name} is not a JSON number.")


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=read_integer, parse_float=read_decimal, parse_constant=_constant
)
