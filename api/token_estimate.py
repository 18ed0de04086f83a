"""How many input tokens a request has at most, said without a network.

The vocabularies of the models are not public for all of them, and are nowhere to be had offline. What holds for every
byte-level vocabulary is that a token stands for one byte of UTF-8 or more; so the bytes of what is sent, with an
allowance for what the model's own format wraps around each item, bound its tokens from above. For English prose that is
about four times the count: it says what certainly fits, not what will be billed.

What the provider adds by itself, nobody here can bound: it is named instead.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from jobs.conversation import Item
from jobs.encoding import to_text

PER_ITEM: Final = 16
PER_IMAGE: Final = 1_275
"""OpenAI's o-series: 75 for an image and 150 for each of the eight tiles that the largest one is cut into."""
_COUNTED_SETTINGS: Final = ("instructions", "tools", "tool_choice", "text", "prompt")
_IMAGES: Final = frozenset({"input_image", "computer_screenshot"})
_WRITTEN_OUT: Final = frozenset({"function", "custom", "namespace"})
"""The tools of which the model is told no more than the request says."""


@dataclass(frozen=True)
class Bound:
    """`tokens` at most, but for what `uncounted` names, of which `uncounted_files` are files."""

    tokens: int
    uncounted_files: int
    uncounted: Sequence[str] = ()


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
    unseen = set(_unseen(settings)) | ({"input_file"} if files else set())
    return Bound(size + PER_ITEM * (len(texts) + 1) + PER_IMAGE * images, files, sorted(unseen))


def _unseen(settings: Mapping[str, Any]) -> Iterable[str]:
    """What stands for texts that only the provider has: tools of its own and stored prompts."""
    if settings.get("prompt") is not None:
        yield "prompt"
    for tool in settings.get("tools") or ():
        if _kind(tool) not in _WRITTEN_OUT:
            yield f"tools.{_kind(tool)}"


def _text(value: object) -> str:
    return value if isinstance(value, str) else to_text(value, ascii_only=False)


def _without_media(item: Item) -> tuple[Item, int, int]:
    """An item less its images and files, and how many of each it had."""
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
