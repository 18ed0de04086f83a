"""How many input tokens a request has at most, said without a network.

The vocabularies of the models are not public for all of them, and are nowhere to be had offline. What holds for every
byte-level vocabulary is that a token stands for one byte of UTF-8 or more; so the bytes of what is sent, with an
allowance for what the model's own format wraps around each item, bound its tokens from above. For English prose that is
about four times the count: it says what certainly fits, not what will be billed.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from jobs.conversation import Item

PER_ITEM: Final = 16
PER_IMAGE: Final = 1_275
"""OpenAI's o-series: 75 for an image and 150 for each of the eight tiles that the largest one is cut into."""
_COUNTED_SETTINGS: Final = ("instructions", "tools", "tool_choice", "text", "prompt")


@dataclass(frozen=True)
class Bound:
    """`tokens` at most, but for `uncounted_files` whose contents nobody here can read."""

    tokens: int
    uncounted_files: int


def bound_tokens(settings: Mapping[str, Any], items: Sequence[Item]) -> Bound:
    """Bound what a request with these settings and input items has."""
    images = files = 0
    texts = [_text(settings[name]) for name in _COUNTED_SETTINGS if settings.get(name) is not None]
    for item in items:
        plain, more_images, more_files = _without_media(item)
        images += more_images
        files += more_files
        texts.append(_text(plain))
    size = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
    return Bound(size + PER_ITEM * (len(texts) + 1) + PER_IMAGE * images, files)


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _without_media(item: Item) -> tuple[Item, int, int]:
    """An item less its images and files, and how many of each it had."""
    for field in ("content", "output"):
        parts = item.get(field)
        if isinstance(parts, list):
            images, files = _count(parts, "input_image"), _count(parts, "input_file")
            if images or files:
                kept = [part for part in parts if _kind(part) not in ("input_image", "input_file")]
                return {**item, field: kept}, images, files
    return item, 0, 0


def _count(parts: Iterable[Any], kind: str) -> int:
    return sum(_kind(part) == kind for part in parts)


def _kind(part: Any) -> object:
    return part.get("type") if isinstance(part, dict) else None
