"""Upper bound of a request's input tokens, computed offline.

The models' vocabularies are not all public, and not available offline. In every byte-level vocabulary a token stands
for at least one byte of UTF-8. So the bytes sent, plus an allowance for the model's own format around each item, are an
upper bound. For English prose it is about four times the real count: it shows what certainly fits, not what is billed.

Texts that the provider adds cannot be counted here; they are named instead.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from jobs.conversation import Item
from jobs.encoding import to_text

PER_ITEM: Final = 16
PER_IMAGE: Final = 1_275
"""OpenAI's o-series: 75 for an image, and 150 for each of the eight tiles of the largest one."""
_COUNTED_SETTINGS: Final = ("instructions", "tools", "tool_choice", "text", "prompt")
_IMAGES: Final = frozenset({"input_image", "computer_screenshot"})
_WRITTEN_OUT: Final = frozenset({"function", "custom", "namespace"})
"""Tools whose whole description is in the request."""


@dataclass(frozen=True)
class Bound:
    """At most `tokens`, without what `uncounted` names; `uncounted_files` is the number of files in it."""

    tokens: int
    uncounted_files: int
    uncounted: Sequence[str] = ()


def bound_tokens(settings: Mapping[str, Any], items: Sequence[Item]) -> Bound:
    """Return an upper bound of the tokens of a request with these settings and input items."""
    images = files = 0
    texts = [_text(settings[name]) for name in _COUNTED_SETTINGS if settings.get(name) is not None]
    for item in items:
        plain, more_images, more_files = _without_media(item)
        images += more_images
        files += more_files
        texts.append(_text(plain))
    size = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
    uncounted = set(_uncounted(settings)) | ({"input_file"} if files else set())
    return Bound(size + PER_ITEM * (len(texts) + 1) + PER_IMAGE * images, files, sorted(uncounted))


def _uncounted(settings: Mapping[str, Any]) -> Iterable[str]:
    """Yield what stands for texts that only the provider has: its own tools, and stored prompts."""
    if settings.get("prompt") is not None:
        yield "prompt"
    for tool in settings.get("tools") or ():
        if _kind(tool) not in _WRITTEN_OUT:
            yield f"tools.{_kind(tool)}"


def _text(value: object) -> str:
    return value if isinstance(value, str) else to_text(value, ascii_only=False)


def _without_media(item: Item) -> tuple[Item, int, int]:
    """Return an item without its images and files, and the numbers of these."""
    kept, images, files = dict(item), 0, 0
    for field in ("content", "output"):
        parts = item.get(field)
        if isinstance(parts, list):
            images += sum(_kind(part) in _IMAGES for part in parts)
            files += sum(_kind(part) == "input_file" for part in parts)
            kept[field] = [part for part in parts if _kind(part) not in _IMAGES | {"input_file"}]
        elif _kind(parts) in _IMAGES:
            images += 1
            del kept[field]
    return kept, images, files


def _kind(part: Any) -> object:
    return part.get("type") if isinstance(part, dict) else None
