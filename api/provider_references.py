"""Finding references to what a provider stores: files, vector stores, containers, prompts, images that it made.

The provider knows only the operator's key, so every tenant of this server could read what any of them stored there. A
server with several tenants can therefore refuse requests with such references.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final

from jobs.conversation import kind_of
from jobs.environment import PREFIX
from jobs.errors import RequestInvalid

VARIABLE: Final = f"{PREFIX}PROVIDER_IDS"
_NAMES: Final = frozenset(
    {
        "connector_id",
        "container_id",
        "conversation_id",
        "file_id",
        "file_ids",
        "skill_id",
        "vector_store_id",
        "vector_store_ids",
    }
)
_UNREAD: Final = frozenset({"parameters", "input_schema", "schema", "filters", "headers", "annotations"})
"""Fields of tools and parts that are not searched: the tenant's own data, or sources of an answer."""
_WHOLE_ELSEWHERE: Final[Mapping[str, str]] = {"image_generation_call": "result"}
"""Items that are only references if they lack their content, and the field of that content."""


def refuse_provider_ids(body: Mapping[str, Any], held: Collection[str] = ()) -> None:
    """Refuse a request that refers to what the provider stores. Items with ids in `held` are the tenant's own.

    Raises:
        RequestInvalid: it does; the message names the setting with which an operator allows it.
    """
    place = first_provider_id(body, held)
    if place is not None:
        raise RequestInvalid(
            f"Unsupported parameter: '{place}'. It names something stored at the provider, which every API key of this"
            f" server could use; its operator may allow that with {VARIABLE}=allow.",
            place,
            "unsupported_parameter",
        )


def first_provider_id(body: Mapping[str, Any], held: Collection[str] = ()) -> str | None:
    """Return the path of the first field that refers to what the provider stores, as OpenAI writes paths, or None."""
    return next(_in_body(body, held), None)


def _in_body(body: Mapping[str, Any], held: Collection[str]) -> Iterator[str]:
    if body.get("prompt"):
        yield "prompt"
    yield from _named(body, "")
    input_ = body.get("input")
    for number, item in enumerate(input_ if isinstance(input_, list) else ()):
        if isinstance(item, Mapping):
            yield from _in_item(item, f"input[{number}]", held)
    for name in ("tools", "tool_choice"):
        yield from _within(body.get(name), name)


def _in_item(item: Mapping[str, Any], place: str, held: Collection[str]) -> Iterator[str]:
    content = _WHOLE_ELSEWHERE.get(kind_of(item) or "")
    if content is not None and "id" in item and not item.get(content) and item["id"] not in held:
        yield f"{place}.id"
    for name in ("content", "output", "tools"):
        yield from _within(item.get(name), f"{place}.{name}")


def _within(value: Any, place: str) -> Iterator[str]:
    if isinstance(value, list):
        for number, each in enumerate(value):
            yield from _within(each, f"{place}[{number}]")
    elif isinstance(value, Mapping):
        yield from _named(value, place)
        container = value.get("container")
        if isinstance(container, str) and container:
            yield f"{place}.container"
        for name, each in value.items():
            if name not in _UNREAD and isinstance(each, (list, Mapping)):
                yield from _within(each, f"{place}.{name}")


def _named(value: Mapping[str, Any], place: str) -> Iterator[str]:
    for name in value.keys() & _NAMES:
        given = value[name]
        if given and (isinstance(given, str) or (isinstance(given, list) and isinstance(given[0], str))):
            yield f"{place}.{name}" if place else name
