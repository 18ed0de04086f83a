"""How a response is shown to whoever polls it or waits for it: its body, its ETag, and when to ask again.

What is asked for at the same time is read from the database together: decision 0005.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from fastapi import Response

from api.errors import RESPONSE_ID
from api.response_body import render_response
from api.response_cache import Json
from jobs.encoding import to_json
from jobs.errors import JobNotFound
from jobs.job import Job
from jobs.lifecycle import Status
from jobs.store.database import READ_SECONDS, Database
from jobs.store.responses import ResponseSummary, get_documents, get_response_document, no_job
from jobs.store.waiting_for import Awaiting

LONGEST_HINT: Final = 10.0
AT_FIRST: Final = {"retry-after": "1", "openai-poll-after-ms": "1000"}


@dataclass(frozen=True, slots=True)
class Shown:
    """A response as it stood at one moment, and its body."""

    job: Job
    body: bytes

    def answer(self, now: datetime) -> Response:
        """What its client is sent."""
        return shown_response(self.job, self.body, now)


def show_all(database: Database, pairs: Sequence[tuple[str, str]], provider_limit: str) -> list[Shown | JobNotFound]:
    """The response of each pair of its id and its key's id; `JobNotFound` where there is none, or it is another's."""
    with database.read(within=READ_SECONDS) as tx:
        awaiting = Awaiting(tx, provider_limit, database.clock())
        documents = [(each, awaiting.of(each.job) if each else None) for each in get_documents(tx, pairs)]
    return [
        no_job(job_id) if document is None else Shown(document.job, to_json(render_response(document, awaited)))
        for (job_id, _), (document, awaited) in zip(pairs, documents, strict=True)
    ]


def show_whole(database: Database, job_id: str, api_key_id: str, provider_limit: str) -> Shown:
    """One response, with encrypted reasoning whether its create asked for it or not.

    Raises:
        JobNotFound: there is none, or it is another's.
    """
    with database.read(within=READ_SECONDS) as tx:
        document = get_response_document(tx, job_id, api_key_id)
        awaited = Awaiting(tx, provider_limit, database.clock()).of(document.job)
    return Shown(document.job, to_json(render_response(document, awaited, shows_reasoning=True)))


def show(database: Database, job_id: str, api_key_id: str, provider_limit: str) -> Shown:
    """One response.

    Raises:
        JobNotFound: there is none, or it is another's.
    """
    [shown] = show_all(database, [(job_id, api_key_id)], provider_limit)
    if isinstance(shown, JobNotFound):
        raise shown
    return shown


def shown_response(summary: Job | ResponseSummary, body: bytes, now: datetime) -> Response:
    """The answer with this body, of a response that stands so."""
    headers = {"etag": etag_of(summary), RESPONSE_ID: summary.id, **poll_hint(summary, now)}
    return Json(body, headers)


def etag_of(summary: Job | ResponseSummary) -> str:
    """What changes whenever the response does."""
    return f'"{summary.attempt}-{summary.status}-{summary.updated_at.timestamp() * 1_000_000:.0f}"'


def poll_hint(summary: Job | ResponseSummary, now: datetime) -> Mapping[str, str]:
    """When to ask again: soon at first, then ever more rarely; nothing once the response has ended."""
    if summary.status.is_terminal:
        return {}
    if summary.status is Status.QUEUED and summary.available_at > now:
        seconds = (summary.available_at - now).total_seconds() + 1
    else:
        seconds = (now - (summary.started_at or summary.created_at)).total_seconds() / 5
    if seconds <= 1.0:
        return AT_FIRST
    seconds = min(seconds, LONGEST_HINT)
    return {"retry-after": str(round(seconds)), "openai-poll-after-ms": str(round(seconds * 1000))}
