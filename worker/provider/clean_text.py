"""Foreign text made safe to store, log and show: control characters removed, length limited."""

import codecs
import html
import re
from typing import Final

from jobs import text_limits

_UNFIT: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")
_TITLE: Final = re.compile(r"<(title|h1)\b[^>]*>(.*?)</\1\s*>", re.IGNORECASE | re.DOTALL)
_HIDDEN: Final = re.compile(r"<(script|style|head)\b.*?</\1\s*>|<!--.*?-->", re.IGNORECASE | re.DOTALL)
_TAG: Final = re.compile(r"<[^>]*>")


codecs.lookup("utf-8-sig")  # its first use opens a file, which may fail when all file descriptors are in use


def message_of(text: str) -> str:
    """Return `text` without control characters and lone surrogates, cut to a readable length."""
    return _cut(_UNFIT.sub("", text.replace("\r\n", "\n")).strip(), text_limits.PROVIDER_MESSAGE)


def name_of(value: object, limit: int = text_limits.PROVIDER_NAME) -> str | None:
    """Return a short machine-readable word such as an id or a code; None if `value` is none."""
    if not isinstance(value, str):
        return None
    return _UNFIT.sub("", value).strip()[:limit] or None


def page_title(page: str) -> str:
    """Return the title of an HTML page, or else its visible text in one line."""
    titles = (match.group(2) for match in _TITLE.finditer(page))
    visible = next((title for title in titles if title.strip()), None) or _HIDDEN.sub(" ", page)
    return message_of(" ".join(html.unescape(_TAG.sub(" ", visible)).split()))


def looks_like_html(text: str) -> bool:
    """Return whether `text` is an HTML page rather than a message."""
    start = text.lstrip()[:200].lower()
    return start.startswith("<") and ("<html" in start or "<!doctype" in start or "<head" in start)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
