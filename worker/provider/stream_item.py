"""One output item as a provider's events make it, and the events by which we tell of it.

What is told of an item is a sequence that every SDK accepts, whatever the provider's own was: its beginning, each part
from beginning to end, and its end, under one id and places of our own. Once the whole item is known, what was not
told of its texts is told before its end.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from jobs.event_stream import Event, is_for_the_client_to_run, opened, part_events, summary_part_events
from worker.provider.output import Item, as_text, normalise_items

_TEXT_OF: Final[Mapping[str, str]] = {
    "output_text": "text",
    "refusal": "refusal",
    "reasoning_text": "text",
    "summary_text": "text",
}
"""Parts that consist of a text, and the field that holds it."""
_SAID: Final[Mapping[str, tuple[str, str]]] = {
    "function_call": ("arguments", "response.function_call_arguments"),
    "custom_tool_call": ("input", "response.custom_tool_call_input"),
    "mcp_call": ("arguments", "response.mcp_call_arguments"),
    "code_interpreter_call": ("code", "response.code_interpreter_call_code"),
}
"""Items that consist of a text, the field that holds it, and the family of its events."""
_NOT_PASSED_ON: Final = frozenset(
    {"sequence_number", "obfuscation", "response", "item", "part", "content_index", "summary_index"}
)
_SAYS_NOTHING: Final = (None, "", "{}")
_PIECES_PER_BLOCK: Final = 64


class Text:
    """A text that comes in pieces. They are put together now and then: thousands of small strings weigh far more."""

    __slots__ = ("_blocks", "_half", "_pieces")

    def __init__(self, text: str = "") -> None:
        self._blocks = [text] if text else []
        self._pieces: list[str] = []
        self._half = ""

    def add(self, piece: str) -> str:
        """Put a piece behind the others; returns what can be told now, which is no half of a character."""
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
        """What came, in pieces."""
        return [*self._blocks, *self._pieces]

    def whole(self) -> str:
        """What came, in one."""
        return "".join(self._blocks) + "".join(self._pieces)


class Part:
    """One part as far as it came. `key` is the provider's index of it, None where it says none that makes sense."""

    __slots__ = ("annotations", "head", "is_begun", "is_done", "is_whole", "key", "kind", "text")

    def __init__(self, kind: str, key: int | None, head: Mapping[str, Any], *, is_begun: bool) -> None:
        self.kind = kind
        self.key = key
        self.head = head
        self.text = Text()
        self.annotations: list[Any] = []
        self.is_begun = is_begun
        """Whether the provider told of its beginning."""
        self.is_whole = False
        self.is_done = False

    def built(self) -> Item:
        """The part, made of what came."""
        part = {**self.head, "type": self.kind}
        if self.kind in _TEXT_OF:
            part[_TEXT_OF[self.kind]] = self.text.whole()
        if self.kind == "output_text":
            part |= {"annotations": self.annotations, "logprobs": part.get("logprobs") or []}
        return part


class AssembledItem:
    """One item as far as it came; `index` is its place in our output, `place` the one that the provider gave it.

    Clients run a tool as soon as its call is done, and a call may be lost half made; so nothing is told of one that
    a client may run before it is whole.
    """

    __slots__ = (
        "content",
        "done",
        "given",
        "ids",
        "index",
        "is_implied",
        "is_told",
        "is_withheld",
        "kind",
        "place",
        "said",
        "said_is_whole",
        "summary",
    )

    def __init__(self, index: int, place: int | None, given: Item, *, is_implied: bool) -> None:
        """`given` is the item as it was added, under the name that we tell, once there is one."""
        self.index = index
        self.place = place
        self.kind = str(given["type"])
        self.given = given
        self.ids: set[str] = set()
        self.is_implied = is_implied
        """Whether the provider has not told of its beginning."""
        self.is_withheld = is_for_the_client_to_run(given)
        self.is_told = False
        self.content: list[Part] = []
        self.summary: list[Part] = []
        self.said = Text()
        self.said_is_whole = False
        self.done: Item | None = None

    @property
    def is_whole(self) -> bool:
        """Whether all that was begun of the item came to its end, though the end of the item itself may be missing."""
        parts = [*self.content, *self.summary]
        if self.done is not None or self.said_is_whole:
            return True
        return bool(self.content) and all(part.is_whole or part.is_done for part in parts)

    def begin(self) -> list[Event]:
        """The item is told of from now on."""
        if self.is_told or self.is_withheld:
            return []
        self.is_told = True
        given = self.given
        if self.kind == "message":
            given = {"role": "assistant", "status": "in_progress", **given}
        begun = opened({name: each for name, each in given.items() if each is not None})
        return [{"type": "response.output_item.added", "output_index": self.index, "item": begun}]

    def part(self, kind: str, key: object, head: Mapping[str, Any] | None = None) -> tuple[Part | None, list[Event]]:
        """The part that an event belongs to, and its beginning if that is new; `head` is how the provider began it.

        None where the event says nothing that was not known.
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
            return None, []  # which has ended: an event that came late, or twice
        if found is not None:
            if head is not None and not found.is_begun:
                found.is_begun, found.head = True, _head(kind, head)
            found.key = index if found.key is None else found.key
            return found, []
        found = Part(kind, index, _head(kind, head or {}), is_begun=head is not None)
        parts.append(found)
        added = "response.reasoning_summary_part.added" if parts is self.summary else "response.content_part.added"
        return found, self._tell(added, found, {"part": found.built()})

    def add(self, part: Part, words: str, event: Mapping[str, Any]) -> list[Event]:
        """More of a part's text came."""
        if part.is_whole or part.is_done:
            return []
        words = part.text.add(words)
        if not words:
            return []
        fields = _passed_on(event) | {"delta": words}
        if part.kind == "output_text":
            fields["logprobs"] = event.get("logprobs") or []
        return self._tell(f"{_family(part)}.delta", part, fields)

    def end_text(self, part: Part, text: str, fields: Mapping[str, Any]) -> list[Event]:
        """A part's text is whole: as it came, or as the provider says it is."""
        if part.is_whole or part.is_done:
            return []
        events = self._rest(part, text)
        part.is_whole = True
        emitted: Item = {_TEXT_OF[part.kind]: part.text.whole()}
        if part.kind == "output_text":
            emitted["logprobs"] = fields.get("logprobs") or []
        return [*events, *self._tell(f"{_family(part)}.done", part, emitted)]

    def end_part(self, part: Part, whole: Mapping[str, Any]) -> list[Event]:
        """A part is whole."""
        if part.is_done:
            return []
        events = []
        if part.kind in _TEXT_OF:
            said = whole.get(_TEXT_OF[part.kind])
            events = self.end_text(part, said if isinstance(said, str) else "", whole)
        annotations = whole.get("annotations")
        if isinstance(annotations, list) and annotations:
            part.annotations = annotations
        part.is_done = True
        part.head = {**part.head, **_head(part.kind, whole)}
        kind = "response.reasoning_summary_part.done" if part in self.summary else "response.content_part.done"
        return [*events, *self._tell(kind, part, {"part": part.built()})]

    def annotate(self, part: Part, annotation: Mapping[str, Any]) -> list[Event]:
        """A text was annotated."""
        if part.is_done:
            return []
        part.annotations.append(dict(annotation))
        fields = {"annotation_index": len(part.annotations) - 1, "annotation": dict(annotation)}
        return self._tell("response.output_text.annotation.added", part, fields)

    def say(self, words: str) -> list[Event]:
        """More of the item's own text came: of a call's arguments, say."""
        if self.said_is_whole:
            return []
        return self._say(self.said.add(words))

    def end_said(self, text: str) -> list[Event]:
        """The item's own text is whole."""
        if self.said_is_whole or self.kind not in _SAID:
            return []
        events = []
        emitted = self.said.whole()
        if text.startswith(emitted):
            events = self._say(self.said.add(text[len(emitted) :]))
        elif text:
            self.said = Text(text)
        self.said_is_whole = True
        return [*events, *self._say_whole()]

    def pass_on(self, event: Mapping[str, Any]) -> list[Event]:
        """What a tool of the provider does is told as it comes, at the place that the item has."""
        if self.is_withheld or not self.is_told:
            return []
        return [_passed_on(event) | {"output_index": self.index, "item_id": self.given["id"]}]

    def end(self, whole: Item) -> list[Event]:
        """The item is whole; `whole` is in shape, and has the name that is told."""
        return [] if self.done is not None else list(self._end(whole))

    def _end(self, whole: Item) -> Iterator[Event]:
        if self.is_withheld:
            self.given = whole
            self.is_withheld = False
            yield from self._tell_call(whole)
        else:
            yield from self.begin()
            if self.said.pieces():
                yield from self.end_said(as_text(whole.get(_SAID[self.kind][0])) or "")
            yield from self._end_parts(whole, "summary")
            yield from self._end_parts(whole, "content")
        self.done = self.given = whole
        self.content, self.summary, self.said = [], [], Text()  # the whole item holds it all
        yield {"type": "response.output_item.done", "output_index": self.index, "item": whole}

    def built(self, finished: str) -> Item:
        """The item in shape, made of what came; `finished` is its status if it is still in progress."""
        return self.completed(self.given, finished)

    def completed(self, whole: Mapping[str, Any], finished: str) -> Item:
        """`whole` in shape, with what came where it is silent."""
        given: Item = {**whole, "type": self.kind}
        name = _SAID.get(self.kind, ("", ""))[0]
        if self.said.pieces() and given.get(name) in _SAYS_NOTHING:
            given[name] = self.said.whole()
        [item] = normalise_items([given], None, finished=finished)
        if self.content:
            item["content"] = _filled(item.get("content") or [], self.content)
        if self.summary:
            item["summary"] = _filled(item.get("summary") or [], self.summary)
        return item

    def _tell_call(self, whole: Item) -> Iterator[Event]:
        yield from self.begin()
        if self.kind in _SAID:
            text = as_text(whole.get(_SAID[self.kind][0])) or ""
            pieces = self.said.pieces() if self.said.whole() == text else [text] if text else []
            for piece in pieces:
                yield from self._say(piece)
            self.said = Text(text)
            yield from self._say_whole()

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

    def _say(self, words: str) -> list[Event]:
        if self.is_withheld or not words:
            return []
        return [{"type": f"{_SAID[self.kind][1]}.delta", **self._scope, "delta": words}]

    def _say_whole(self) -> list[Event]:
        if self.is_withheld:
            return []
        name, family = _SAID[self.kind]
        emitted = {name: self.said.whole()}
        if self.kind == "function_call":
            emitted["name"] = str(self.given.get("name") or "")
        return [{"type": f"{family}.done", **self._scope, **emitted}]

    def _rest(self, part: Part, text: str) -> list[Event]:
        """What is left to tell of a text. One that is not what was told takes its place: it came in one piece."""
        emitted = part.text.whole()
        if text.startswith(emitted):
            return self.add(part, text[len(emitted) :], {})
        if text:
            part.text = Text(text)
        return []

    def _tell(self, kind: str, part: Part, fields: Mapping[str, Any]) -> list[Event]:
        name, parts = ("summary_index", self.summary) if part in self.summary else ("content_index", self.content)
        return [{**fields, "type": kind, **self._scope, name: parts.index(part)}]

    @property
    def _scope(self) -> dict[str, Any]:
        return {"item_id": self.given["id"], "output_index": self.index}


def _passed_on(event: Mapping[str, Any]) -> Event:
    return {name: each for name, each in event.items() if name not in _NOT_PASSED_ON}


def _family(part: Part) -> str:
    return "response.reasoning_summary_text" if part.kind == "summary_text" else f"response.{part.kind}"


def _head(kind: str, part: Mapping[str, Any]) -> Item:
    """A part less the text that comes in deltas."""
    dropped = {_TEXT_OF.get(kind), "annotations"}
    head = {name: each for name, each in part.items() if name not in dropped}
    if kind == "output_text":
        head["logprobs"] = head.get("logprobs") or []
    return head


def _filled(given: list[Any], parts: list[Part]) -> list[Any]:
    """The parts of a whole item; those that came where it lacks them, or where theirs are empty."""
    filled = list(given)
    for place, part in enumerate(parts):
        built = part.built()
        if place >= len(filled):
            filled.append(built)
        elif isinstance(filled[place], Mapping) and filled[place].get("type") == part.kind:
            name = _TEXT_OF.get(part.kind)
            if name and not filled[place].get(name):
                filled[place] = {**filled[place], name: built[name]}
    return filled
