"""Stream events as frames, read from the database. Streams that need the same page share one read.

The first and last events are made from the job and its answer; those in between are read from its event log.
"""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

from fastapi.concurrency import run_in_threadpool

from api.errors import error_in_streams
from api.response_body import render_response
from jobs.encoding import to_text
from jobs.event_stream import LIVE_FROM, Event, Progress, remaining_events, terminal_type
from jobs.job import Job
from jobs.lifecycle import Status
from jobs.store.attempts import may_have_been_billed
from jobs.store.database import Database
from jobs.store.responses import ResponseDocument, get_response_document
from jobs.store.stream_events import last_chunk, read_log

CHUNKS_PER_LOOK: Final = 16


@dataclass(frozen=True)
class Page:
    """The next frames of a stream, whether they include the last, and seconds until the next look."""

    frames: tuple[bytes, ...]
    is_last: bool
    look_again: float = float("inf")


class Sequences:
    """Reads events for every stream of this process."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._under_way: dict[tuple[str, str, int], asyncio.Task[Page]] = {}

    async def read(self, job_id: str, api_key_id: str, number: int) -> Page:
        """Return the events from `number` on that were written before this call; maybe none.

        Raises:
            JobNotFound: the response does not exist, belongs to another key, or was deleted.
        """
        key = (job_id, api_key_id, number)
        earlier = self._under_way.get(key)
        if earlier is not None:
            page = await asyncio.shield(earlier)
            if page.frames or page.is_last:
                return page
        # the earlier read may have begun before the event was written; one found now began after that read ended
        return await asyncio.shield(self._under_way.get(key) or self._look(key))

    def _look(self, key: tuple[str, str, int]) -> "asyncio.Task[Page]":
        task = asyncio.create_task(run_in_threadpool(look, self._database, *key))
        self._under_way[key] = task

        def ended(task: "asyncio.Task[Page]") -> None:
            del self._under_way[key]
            if not task.cancelled():
                task.exception()  # every client may have left: marks the exception as seen

        task.add_done_callback(ended)
        return task


def look(database: Database, job_id: str, api_key_id: str, number: int) -> Page:
    """Read the events from `number` on. The log is complete once its job has ended; an answer read after it ends it."""
    with database.read() as tx:
        log = read_log(tx, job_id, api_key_id, number, CHUNKS_PER_LOOK)
        is_last = log.has_ended and len(log.chunks) < CHUNKS_PER_LOOK
        document = get_response_document(tx, job_id, api_key_id) if is_last or number < LIVE_FROM else None
        last = log.chunks[-1] if log.chunks else last_chunk(tx, job_id) if is_last and number > LIVE_FROM else None
        error = None
        if is_last and document is not None and document.job.status is Status.FAILED:
            error = error_in_streams(document.job, may_have_been_billed=may_have_been_billed(tx, job_id))
    events: list[tuple[int, Event]] = []
    if document is not None:
        is_last = is_last and document.job.updated_at == log.changed_at  # else it was retried meanwhile
        events += list(enumerate(_opening(document)))[number:]
    for chunk in log.chunks:
        events += [each for each in enumerate(chunk.events, chunk.number) if each[0] >= number]
    if is_last and document is not None:
        first = opening_length(document.job) if last is None else last.next_number
        rest = _ending(document, Progress() if last is None else last.progress, error)
        events += [each for each in enumerate(rest, first) if each[0] >= number]
    return Page(tuple(frame(event, place) for place, event in events), is_last)


def frame(event: Event, number: int) -> bytes:
    """Return one event in SSE format. All ASCII, as some clients take U+2028 for a line end."""
    numbered = {"type": event["type"], "sequence_number": number, **event}
    return f"event: {event['type']}\ndata: {to_text(numbered)}\n\n".encode()


def opening_length(job: Job) -> int:
    """Return the number of events before the answer's: created, queued and, once a worker had it, in progress."""
    return 2 if job.started_at is None else 3


def _opening(document: ResponseDocument) -> Iterator[Event]:
    """Yield the first events of a response's stream; they are the same whenever it is read."""
    queued = replace(
        document.job,
        status=Status.QUEUED,
        attempt=0,
        completed_at=None,
        updated_at=document.job.created_at,
        available_at=document.job.created_at,
        truncation_applied=None,
        provider_response_id=None,
        provider_model=None,
        incomplete_reason=None,
        error_kind=None,
        usage=None,
        cost=None,
        parked_until=None,
        blocked_by=None,
        sent_responses=None,
        sent_items=None,
    )
    created = render_response(replace(document, job=queued, answer=None), None)
    yield {"type": "response.created", "response": created}
    yield {"type": "response.queued", "response": created}
    if document.job.started_at is not None:
        running = replace(queued, status=Status.IN_PROGRESS, attempt=1)
        yield {
            "type": "response.in_progress",
            "response": render_response(replace(document, job=running, answer=None), None),
        }


def _ending(document: ResponseDocument, progress: Progress, error: dict[str, Any] | None) -> Iterator[Event]:
    """Yield the answer's events that were not sent before, and the last one; `error` is merged into a failure's."""
    response = render_response(document, None)
    if error is not None:
        response["error"] |= error
    if document.job.status in (Status.COMPLETED, Status.INCOMPLETE) or response["output"]:
        yield from remaining_events(progress, response["output"])
    yield {"type": terminal_type(document.job.status), "response": response}
