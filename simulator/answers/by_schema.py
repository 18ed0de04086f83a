"""Example values for a JSON schema, so that structured output and tool calls work with the simulator.

It covers the features of strict structured output: objects, arrays, enums, const, anyOf, local $ref, simple bounds. A
recursive schema is ended by null or an empty list if it allows that.
"""

from collections.abc import Callable, Mapping
from math import isfinite
from types import MappingProxyType
from typing import Any, Final

_DEPTH_LIMIT: Final = 3
_LAST_DEPTH: Final = 6
_MOST_ELEMENTS: Final = 1_000
_MOST_CHARACTERS: Final = 100_000
_STRINGS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "date-time": "2026-01-01T00:00:00Z",
        "date": "2026-01-01",
        "time": "00:00:00Z",
        "duration": "PT1S",
        "email": "someone@example.com",
        "hostname": "example.com",
        "ipv4": "192.0.2.1",
        "ipv6": "2001:db8::1",
        "uuid": "00000000-0000-4000-8000-000000000000",
        "uri": "https://example.com/",
    }
)


def example(schema: Any, text: str) -> Any:
    """Return a value for `schema`, with `text` in free strings. A value that is no schema gives null."""
    try:
        return _Examples(schema, text).of(schema, 0)
    except RecursionError:
        return None


class _Examples:
    """Makes examples. `depth` counts the references followed, as only they can make a schema endless."""

    def __init__(self, root: Any, text: str) -> None:
        self._root = root
        self._text = text

    def of(self, schema: Any, depth: int) -> Any:
        if not isinstance(schema, dict) or depth > _LAST_DEPTH:
            return None
        if "$ref" in schema:
            return self.of(self._resolve(schema["$ref"]), depth + 1)
        for keyword in ("const", "default"):
            if keyword in schema:
                return schema[keyword]
        for keyword in ("enum", "examples"):
            if choices := _listed(schema, keyword):
                return choices[0]
        for keyword in ("anyOf", "oneOf", "allOf"):
            if choices := _listed(schema, keyword):
                return self.of(self._choose(choices, depth), depth)
        return self._of_type(schema, depth)

    def _of_type(self, schema: Mapping[str, Any], depth: int) -> Any:
        kinds: Any = schema.get("type", "object" if "properties" in schema else "string")
        if isinstance(kinds, list):
            kinds = "null" if not kinds or (depth > _DEPTH_LIMIT and "null" in kinds) else kinds[0]
        makers: Mapping[str, Callable[[], Any]] = {
            "object": lambda: self._object(schema, depth),
            "array": lambda: self._array(schema, depth),
            "string": lambda: self._string(schema),
            "integer": lambda: int(_smallest(schema)),
            "number": lambda: _smallest(schema),
            "boolean": lambda: True,
        }
        make = makers.get(kinds) if isinstance(kinds, str) else None
        return make() if make is not None else None

    def _object(self, schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
        given = schema.get("properties")
        properties: Mapping[str, Any] = given if isinstance(given, dict) else {}
        wanted = properties if depth <= _DEPTH_LIMIT else _listed(schema, "required")
        return {name: self.of(properties.get(name), depth) for name in wanted if isinstance(name, str)}

    def _array(self, schema: Mapping[str, Any], depth: int) -> list[Any]:
        length = _whole(schema, "minItems", 1 if depth <= _DEPTH_LIMIT else 0)
        return [self.of(schema.get("items"), depth) for _ in range(min(length, _MOST_ELEMENTS))]

    def _string(self, schema: Mapping[str, Any]) -> str:
        form = schema.get("format")
        if isinstance(form, str) and form in _STRINGS:
            return _STRINGS[form]
        longest = _whole(schema, "maxLength", len(self._text))
        return self._text[:longest].ljust(min(_whole(schema, "minLength", 0), _MOST_CHARACTERS), ".")

    def _choose(self, choices: list[Any], depth: int) -> Any:
        nulls = [choice for choice in choices if isinstance(choice, dict) and choice.get("type") == "null"]
        if nulls and depth > _DEPTH_LIMIT:
            return nulls[0]
        return next((choice for choice in choices if choice not in nulls), choices[0])

    def _resolve(self, reference: Any) -> Any:
        if not isinstance(reference, str):
            return None
        target = self._root
        for key in filter(None, reference.removeprefix("#").split("/")):
            target = target.get(key.replace("~1", "/").replace("~0", "~")) if isinstance(target, dict) else None
        return target


def _listed(schema: Mapping[str, Any], keyword: str) -> list[Any]:
    value = schema.get(keyword)
    return value if isinstance(value, list) else []


def _whole(schema: Mapping[str, Any], keyword: str, default: int) -> int:
    value = schema.get(keyword)
    return value if isinstance(value, int) and value >= 0 else default


def _smallest(schema: Mapping[str, Any]) -> float:
    """Return the least number that the bounds allow, or 1."""
    least, above, most = (_number(schema, keyword) for keyword in ("minimum", "exclusiveMinimum", "maximum"))
    if least is not None:
        return least
    if above is not None:
        return above + 1
    return 1 if most is None else min(1, most)


def _number(schema: Mapping[str, Any], keyword: str) -> float | None:
    value = schema.get(keyword)
    if isinstance(value, float):
        return value if isfinite(value) else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None
