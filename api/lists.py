"""Lists with rows that may be large: responses, attempts and input items."""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from functools import partial

from api.dependencies import AppState
from api.paging import PAGE_BYTES, Row, Source, batches, lean
from api.response_body import render_attempt, render_listed
from jobs.conversation import Item
from jobs.encoding import to_json
from jobs.store.api_keys import ApiKey
from jobs.store.attempt_bodies import bodies_of
from jobs.store.attempts import attempts_of
from jobs.store.responses import Filters, get_documents, get_job, list_sizes
from jobs.store.waiting_for import WaitStateReader

ATTEMPTS_AT_ONCE = 200
BODIES_AT_ONCE = 20


class ResponsesListed(Source):
    """The responses of an API key, each without settings that are too large for a list."""

    def __init__(
        self, state: AppState, caller: ApiKey, filters: Filters, *, limit: int, after: str | None, ascending: bool
    ) -> None:
        self._state = state
        self._caller = caller
        self._filters = filters
        self._limit = limit
        self._after = after
        self._ascending = ascending

    async def rows(self) -> AsyncGenerator[Row, None]:
        """Yield the responses, read in groups of limited size."""
        sizes = await self._state.lists.read(self._sizes)
        for number, group in enumerate(batches(sizes)):
            if number:
                await self._state.callers.recheck(self._caller)
            for row in await self._state.lists.read(partial(self._render, group)):
                yield row

    def _sizes(self) -> Sequence[tuple[str, int]]:
        with self._state.database.read() as tx:
            sizes, self.has_more = list_sizes(
                tx, self._caller.id, self._filters, limit=self._limit, after=self._after, ascending=self._ascending
            )
        return sizes

    def _render(self, group: Sequence[str]) -> list[Row]:
        rows = []
        with self._state.database.read() as tx:
            awaiting = WaitStateReader(tx, self._state.settings.provider_name, self._state.database.clock())
            for document in get_documents(tx, [(each, self._caller.id) for each in group]):
                if document is not None:  # else it was deleted meanwhile
                    listed, left_out = lean(document)
                    awaited = awaiting.of(document.job)
                    rows.append((document.job.id, to_json(render_listed(listed, awaited, left_out))))
        return rows


class AttemptsListed(Source):
    """The attempts of a response, with the bodies of failed calls if `with_bodies`."""

    def __init__(
        self, state: AppState, caller: ApiKey, response_id: str, *, limit: int, after: int, with_bodies: bool
    ) -> None:
        self._state = state
        self._caller = caller
        self._response_id = response_id
        self._limit = limit
        self._after = after
        self._with_bodies = with_bodies

    async def rows(self) -> AsyncGenerator[Row, None]:
        """Yield the attempts, read in groups of limited size."""
        at_once = BODIES_AT_ONCE if self._with_bodies else ATTEMPTS_AT_ONCE
        left = self._limit
        self.has_more = True
        while self.has_more and left:
            for row in await self._state.lists.read(partial(self._render, min(left, at_once))):
                yield row
                left -= 1

    def _render(self, most: int) -> list[Row]:
        with self._state.database.read() as tx:
            get_job(tx, self._response_id, self._caller.id)
            found = attempts_of(tx, self._response_id, self._after, most + 1)
            bodies: Mapping[int, bytes] = {}
            if self._with_bodies and found:
                bodies = bodies_of(tx, self._response_id, found[0].number, found[:most][-1].number)
        self.has_more = len(found) > most
        rows = []
        for attempt in found[:most]:
            rendered = render_attempt(attempt)
            if self._with_bodies:
                body = bodies.get(attempt.number)
                rendered["body"] = None if body is None else body.decode("utf-8", "replace")
            rows.append((rendered["id"], to_json(rendered)))
            self._after = attempt.number
        return rows


class ItemsListed(Source):
    """The input items of a response, read together as they are in one row."""

    def __init__(self, state: AppState, read: Callable[[], tuple[list[Row], bool]]) -> None:
        self._state = state
        self._read = read

    async def rows(self) -> AsyncGenerator[Row, None]:
        """Yield the items."""
        rows, self.has_more = await self._state.lists.read(self._read)
        rows.reverse()
        while rows:
            yield rows.pop()  # frees the memory of each row sent


def within_budget(items: Sequence[Item], *, has_more: bool, from_the_end: bool) -> tuple[list[Row], bool]:
    """Return the items that fit into a page, at least one, and whether more are left in that direction."""
    rows: list[Row] = []
    size = 0
    for item in reversed(items) if from_the_end else items:
        row = to_json(item)
        size += len(row)
        if rows and size > PAGE_BYTES:
            has_more = True
            break
        rows.append((item["id"], row))
    return rows[::-1] if from_the_end else rows, has_more
