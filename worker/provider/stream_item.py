"""One output item as a provider's events make it, and the canonical events that are emitted for it.

Every SDK accepts the emitted sequence, whatever the provider's own was: the item's start, each part from start to end,
and the item's end, with one id and with places of our own. Once the whole item is known, the rest of its texts is
emitted before its end.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from jobs.event_stream import Event, is_for_the_client_to_run, opened, part_events, summary_part_events
from worker.provider.output import Item, as_text, normalise_items

_PART_TEXTS: Final[Mapping[str, str]] = {
    "output_text": "text",
    "refusal": "refusal",
    "reasoning_text": "text",
    "summary_text": "text",
}
"""Types of parts that hold a text, with the field of that text."""
ITEM_TEXTS: Final[Mapping[str, tuple[str, str]]] = {
    "function_call": ("arguments", "response.function_call_arguments"),
    "custom_tool_call": ("input", "response.custom_tool_call_input"),
    "mcp_call": ("arguments", "response.mcp_call_arguments"),
    "code_interpreter_call": ("code", "response.code_interpreter_call_code"),
}
"""Types of items that hold a text, with the field of that text and the family of its events."""
_NOT_FORWARDED: Final = frozenset(
    {"sequence_number", "obfuscation", "response", "item", "part", "content_index", "summary_index"}
)
_EMPTY_TEXTS: Final = (None, "", "{}")
_PIECES_PER_BLOCK: Final = 64


class Text:
    """A text that arrives in pieces. They are joined now and then, because thousands of small strings take far more
    memory.
    """

    __slots__ = ("_blocks", "_half", "_pieces")

    def __init__(self, text: str = "") -> None:
        self._blocks = [text] if text else []
        self._pieces: list[str] = []
        self._half = ""

    def add(self, piece: str) -> str:
        """Append a piece. Return the text to emit, which never ends in half of a character."""
        if self._half or "\ud800" <= piece[-1:] <= "\udbff":
            piece, self._half = self._half + piece, ""
            if "\ud800" <= piece[-1:] <= "\udbff":
                piece, self._half = piece[:-1], piece[-1]
            piece = piece.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        if piece:
            self._pieces.append(piece)
        if len(self._pieces) == _PIECES_PER_BLOCK:
            self._blocks.append("".join(self._pieces))
            self._pieces.clear()
        return piece

    def pieces(self) -> list[str]:
        """Return the text so far, in pieces."""
        return [*self._blocks, *self._pieces]

    def whole(self) -> str:
        """Return the text so far, joined."""
        return "".join(self._blocks) + "".join(self._pieces)


class Part:
    """One part as far as it was received. `key` is the provider's index of it; None if that is missing or invalid."""

    __slots__ = ("annotations", "head", "is_begun", "is_done", "is_whole", "key", "kind", "text")

    def __init__(self, kind: str, key: int | None, head: Mapping[str, Any], *, is_begun: bool) -> None:
        self.kind = kind
        self.key = key
        self.head = head
        self.text = Text()
        self.annotations: list[Any] = []
        self.is_begun = is_begun
        """True if the provider sent an event for its start."""
        self.is_whole = False
        self.is_done = False

    def built(self) -> Item:
        """Return the part, made of what was received."""
        part = {**self.head, "type": self.kind}
        if self.kind in _PART_TEXTS:
            part[_PART_TEXTS[self.kind]] = self.text.whole()
        if self.kind == "output_text":
            part |= {"annotations": self.annotations, "logprobs": part.get("logprobs") or []}
        return part


class AssembledItem:
    """One item as far as it was received. `index` is its place in our output, `place` the provider's.

    Clients run a tool as soon as its call is done, and a call may be lost when it is half made. So nothing is emitted
    of an item that the client may run until it is complete.
    """

    __slots__ = (
        "content",
        "done",
        "given",
        "has_whole_text",
        "ids",
        "index",
        "is_emitted",
        "is_implied",
        "is_withheld",
        "kind",
        "place",
        "summary",
        "text",
    )

    def __init__(self, index: int, place: int | None, given: Item, *, is_implied: bool) -> None:
        """Begin an item. `given` is the item as the provider added it, with our ids once they are assigned."""
        self.index = index
        self.place = place
        self.kind = str(given["type"])
        self.given = given
        self.ids: set[str] = set()
        self.is_implied = is_implied
        """True if the provider sent no event for its start."""
        self.is_withheld = is_for_the_client_to_run(given)
        self.is_emitted = False
        self.content: list[Part] = []
        self.summary: list[Part] = []
        self.text = Text()
        self.has_whole_text = False
        self.done: Item | None = None

    @property
    def is_whole(self) -> bool:
        """True if all parts of the item that began have ended, although the end of the item itself may be missing."""
        parts = [*self.content, *self.summary]
        if self.done is not None or self.has_whole_text:
            return True
        return bool(self.content) and all(part.is_whole or part.is_done for part in parts)

    def begin(self) -> list[Event]:
        """Return the events for the item's start."""
        if self.is_emitted or self.is_withheld:
            return []
        self.is_emitted = True
        given = self.given
        if self.kind == "message":
            given = {"role": "assistant", "status": "in_progress", **given}
        begun = opened({name: each for name, each in given.items() if each is not None})
        return [{"type": "response.output_item.added", "output_index": self.index, "item": begun}]

    def open_part(
        self, kind: str, key: object, head: Mapping[str, Any] | None = None
    ) -> tuple[Part | None, list[Event]]:
        """Return the part that an event belongs to, with the events for its start if it is new.

        `head` is the part in the provider's event for its start. Return None if the event adds nothing.
        """
        index = key if isinstance(key, int) and not isinstance(key, bool) and key >= 0 else None
        parts = self.summary if kind == "summary_text" else self.content
        alike = [each for each in parts if each.kind == kind]
        found = next((each for each in alike if each.key == index), None) if index is not None else None
        if found is None and alike and not alike[-1].is_done:
            last = alike[-1]
            is_same = index is None or last.key is None or not last.text.pieces()
            found = last if is_same and (head is None or not last.is_begun) else None
        if found is None and index is None and head is None and alike:
            return None, []  # the part has ended: the event is late or a duplicate
        if found is not None:
            if head is not None and not found.is_begun:
                found.is_begun, found.head = True, _head(kind, head)
            found.key = index if found.key is None else found.key
            return found, []
        found = Part(kind, index, _head(kind, head or {}), is_begun=head is not None)
        parts.append(found)
        added = "response.reasoning_summary_part.added" if parts is self.summary else "response.content_part.added"
        return found, self._part_event(added, found, {"part": found.built()})

    def add_part_text(self, part: Part, text: str, event: Mapping[str, Any]) -> list[Event]:
        """Add to a part's text; return the events for it."""
        if part.is_whole or part.is_done:
            return []
        text = part.text.add(text)
        if not text:
            return []
        fields = _forwarded(event) | {"delta": text}
        if part.kind == "output_text":
            fields["logprobs"] = event.get("logprobs") or []
        return self._part_event(f"{_family(part)}.delta", part, fields)

    def end_part_text(self, part: Part, text: str, fields: Mapping[str, Any]) -> list[Event]:
        """Complete a part's text by `text`, the provider's whole text; return the events for it."""
        if part.is_whole or part.is_done:
            return []
        events = self._rest_of_text(part, text)
        part.is_whole = True
        emitted: Item = {_PART_TEXTS[part.kind]: part.text.whole()}
        if part.kind == "output_text":
            emitted["logprobs"] = fields.get("logprobs") or []
        return [*events, *self._part_event(f"{_family(part)}.done", part, emitted)]

    def end_part(self, part: Part, whole: Mapping[str, Any]) -> list[Event]:
        """End a part as in `whole`; return the events for it."""
        if part.is_done:
            return []
        events = []
        if part.kind in _PART_TEXTS:
            text = whole.get(_PART_TEXTS[part.kind])
            events = self.end_part_text(part, text if isinstance(text, str) else "", whole)
        annotations = whole.get("annotations")
        if isinstance(annotations, list) and annotations:
            part.annotations = annotations
        part.is_done = True
        part.head = {**part.head, **_head(part.kind, whole)}
        kind = "response.reasoning_summary_part.done" if part in self.summary else "response.content_part.done"
        return [*events, *self._part_event(kind, part, {"part": part.built()})]

    def annotate(self, part: Part, annotation: Mapping[str, Any]) -> list[Event]:
        """Add an annotation to a part's text; return the events for it."""
        if part.is_done:
            return []
        part.annotations.append(dict(annotation))
        fields = {"annotation_index": len(part.annotations) - 1, "annotation": dict(annotation)}
        return self._part_event("response.output_text.annotation.added", part, fields)

    def add_text(self, text: str) -> list[Event]:
        """Add to the item's own text, such as a call's arguments; return the events for it."""
        if self.has_whole_text:
            return []
        return self._text_delta(self.text.add(text))

    def end_text(self, text: str) -> list[Event]:
        """Complete the item's own text by `text`, the provider's whole text; return the events for it."""
        if self.has_whole_text or self.kind not in ITEM_TEXTS:
            return []
        events = []
        emitted = self.text.whole()
        if text.startswith(emitted):
            events = self._text_delta(self.text.add(text[len(emitted) :]))
        elif text:
            self.text = Text(text)
        self.has_whole_text = True
        return [*events, *self._text_done()]

    def forward(self, event: Mapping[str, Any]) -> list[Event]:
        """Return an event about a tool that runs at the provider, with the item's id and place."""
        if self.is_withheld or not self.is_emitted:
            return []
        return [_forwarded(event) | {"output_index": self.index, "item_id": self.given["id"]}]

    def end(self, whole: Item) -> list[Event]:
        """End the item; return the events for it. `whole` must be normalised and have the emitted ids."""
        return [] if self.done is not None else list(self._end(whole))

    def _end(self, whole: Item) -> Iterator[Event]:
        if self.is_withheld:
            self.given = whole
            self.is_withheld = False
            yield from self._call_events(whole)
        else:
            yield from self.begin()
            if self.text.pieces():
                yield from self.end_text(as_text(whole.get(ITEM_TEXTS[self.kind][0])) or "")
            yield from self._end_parts(whole, "summary")
            yield from self._end_parts(whole, "content")
        self.done = self.given = whole
        self.content, self.summary, self.text = [], [], Text()  # `whole` holds it all
        yield {"type": "response.output_item.done", "output_index": self.index, "item": whole}

    def built(self, finished: str) -> Item:
        """Return the item, normalised, made of what was received. `finished` replaces a status of in_progress."""
        return self.completed(self.given, finished)

    def completed(self, whole: Mapping[str, Any], finished: str) -> Item:
        """Return `whole`, normalised, with received texts and parts in place of missing ones."""
        given: Item = {**whole, "type": self.kind}
        name = ITEM_TEXTS.get(self.kind, ("", ""))[0]
        if self.text.pieces() and given.get(name) in _EMPTY_TEXTS:
            given[name] = self.text.whole()
        [item] = normalise_items([given], None, finished=finished)
        if self.content:
            item["content"] = _filled(item.get("content") or [], self.content)
        if self.summary:
            item["summary"] = _filled(item.get("summary") or [], self.summary)
        return item

    def _call_events(self, whole: Item) -> Iterator[Event]:
        yield from self.begin()
        if self.kind in ITEM_TEXTS:
            text = as_text(whole.get(ITEM_TEXTS[self.kind][0])) or ""
            pieces = self.text.pieces() if self.text.whole() == text else [text] if text else []
            for piece in pieces:
                yield from self._text_delta(piece)
            self.text = Text(text)
            yield from self._text_done()

    def _end_parts(self, whole: Item, group: str) -> Iterator[Event]:
        parts = self.summary if group == "summary" else self.content
        for place, each in enumerate(whole.get(group) or ()):
            if not isinstance(each, Mapping):
                continue
            if place < len(parts):
                yield from self.end_part(parts[place], each)
            elif group == "summary":
                yield from summary_part_events(each, self._scope | {"summary_index": place})
            elif self.kind in ("message", "reasoning"):
                yield from part_events(each, self._scope | {"content_index": place})

    def _text_delta(self, text: str) -> list[Event]:
        if self.is_withheld or not text:
            return []
        return [{"type": f"{ITEM_TEXTS[self.kind][1]}.delta", **self._scope, "delta": text}]

    def _text_done(self) -> list[Event]:
        if self.is_withheld:
            return []
        name, family = ITEM_TEXTS[self.kind]
        emitted = {name: self.text.whole()}
        if self.kind == "function_call":
            emitted["name"] = str(self.given.get("name") or "")
        return [{"type": f"{family}.done", **self._scope, **emitted}]

    def _rest_of_text(self, part: Part, text: str) -> list[Event]:
        """Return the events for the rest of a text. If it differs from the emitted text, it replaces that without an
        event.
        """
        emitted = part.text.whole()
        if text.startswith(emitted):
            return self.add_part_text(part, text[len(emitted) :], {})
        if text:
            part.text = Text(text)
        return []

    def _part_event(self, kind: str, part: Part, fields: Mapping[str, Any]) -> list[Event]:
        name, parts = ("summary_index", self.summary) if part in self.summary else ("content_index", self.content)
        return [{**fields, "type": kind, **self._scope, name: parts.index(part)}]

    @property
    def _scope(self) -> dict[str, Any]:
        return {"item_id": self.given["id"], "output_index": self.index}


def _forwarded(event: Mapping[str, Any]) -> Event:
    return {name: each for name, each in event.items() if name not in _NOT_FORWARDED}


def _family(part: Part) -> str:
    return "response.reasoning_summary_text" if part.kind == "summary_text" else f"response.{part.kind}"


def _head(kind: str, part: Mapping[str, Any]) -> Item:
    """Return a part without the text that arrives in deltas."""
    dropped = {_PART_TEXTS.get(kind), "annotations"}
    head = {name: each for name, each in part.items() if name not in dropped}
    if kind == "output_text":
        head["logprobs"] = head.get("logprobs") or []
    return head


def _filled(given: list[Any], parts: list[Part]) -> list[Any]:
    """Return the parts of a whole item. Received parts replace those that are missing or empty."""
    filled = list(given)
    for place, part in enumerate(parts):
        built = part.built()
        if place >= len(filled):
            filled.append(built)
        elif isinstance(filled[place], Mapping) and filled[place].get("type") == part.kind:
            name = _PART_TEXTS.get(part.kind)
            if name and not filled[place].get(name):
                filled[place] = {**filled[place], name: built[name]}
    return filled
