"""Responses as polls and waits read them: the rendered body, its ETag, and the hint when to poll again.

Reads that come at the same time share one statement (decision 0004).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Final

from fastapi import Response

from api.errors import RESPONSE_ID
from api.response_body import render_response
from jobs.encoding import to_json
from jobs.errors import JobNotFound
from jobs.job import Job
from jobs.lifecycle import Status
from jobs.store.database import READ_SECONDS, Database
from jobs.store.responses import ResponseSummary, get_documents, get_response_document, no_job
from jobs.store.waiting_for import WaitStateReader

LONGEST_HINT: Final = 10.0
FIRST_HINT: Final = {"retry-after": "1", "openai-poll-after-ms": "1000"}
NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})


class JsonBytes(Response):
    """A body that is JSON already, with lower-case headers. Skips what Starlette does for other bodies."""

    def __init__(self, body: bytes, headers: Mapping[str, str] = NO_HEADERS) -> None:
        self.status_code = 200
        self.background = None
        self.body = body
        self.raw_headers = [
            (b"content-length", b"%d" % len(body)),
            (b"content-type", b"application/json"),
            *((name.encode(), value.encode()) for name, value in headers.items()),
        ]


@dataclass(frozen=True, slots=True)
class RenderedBody:
    """The JSON body of a response, and its job when the body was rendered."""

    job: Job
    body: bytes

    def to_response(self, now: datetime) -> Response:
        """Return it with its headers."""
        return body_response(self.job, self.body, now)


def read_bodies(
    database: Database, pairs: Sequence[tuple[str, str]], provider_name: str
) -> list[RenderedBody | JobNotFound]:
    """Read and render a response for each pair of response id and API key id.

    `JobNotFound` stands for one that does not exist or belongs to another key.
    """
    with database.read(within=READ_SECONDS) as tx:
        awaiting = WaitStateReader(tx, provider_name, database.clock())
        documents = [(each, awaiting.of(each.job) if each else None) for each in get_documents(tx, pairs)]
    return [
        no_job(job_id) if document is None else RenderedBody(document.job, to_json(render_response(document, awaited)))
        for (job_id, _), (document, awaited) in zip(pairs, documents, strict=True)
    ]


def read_body(database: Database, job_id: str, api_key_id: str, provider_name: str) -> RenderedBody:
    """Read and render one response.

    Raises:
        JobNotFound: it does not exist, or belongs to another key.
    """
    [rendered] = read_bodies(database, [(job_id, api_key_id)], provider_name)
    if isinstance(rendered, JobNotFound):
        raise rendered
    return rendered


def read_body_with_reasoning(database: Database, job_id: str, api_key_id: str, provider_name: str) -> RenderedBody:
    """Read and render one response with its encrypted reasoning, even if its create did not ask for that.

    Raises:
        JobNotFound: it does not exist, or belongs to another key.
    """
    with database.read(within=READ_SECONDS) as tx:
        document = get_response_document(tx, job_id, api_key_id)
        awaited = WaitStateReader(tx, provider_name, database.clock()).of(document.job)
    return RenderedBody(document.job, to_json(render_response(document, awaited, shows_reasoning=True)))


def body_response(summary: Job | ResponseSummary, body: bytes, now: datetime) -> Response:
    """Return `body` with the ETag, id and poll hint of `summary`."""
    headers = {"etag": etag_of(summary), RESPONSE_ID: summary.id, **poll_hint(summary, now)}
    return JsonBytes(body, headers)


def etag_of(summary: Job | ResponseSummary) -> str:
    """Return the ETag. It changes whenever the response does."""
    return f'"{summary.attempt}-{summary.status}-{summary.updated_at.timestamp() * 1_000_000:.0f}"'


def poll_hint(summary: Job | ResponseSummary, now: datetime) -> Mapping[str, str]:
    """Return headers that say when to poll again: soon at first, later less often; none once the response has ended."""
    if summary.status.is_terminal:
        return {}
    if summary.status is Status.QUEUED and summary.available_at > now:
        seconds = (summary.available_at - now).total_seconds() + 1
    else:
        seconds = (now - (summary.started_at or summary.created_at)).total_seconds() / 5
    if seconds <= 1.0:
        return FIRST_HINT
    seconds = min(seconds, LONGEST_HINT)
    return {"retry-after": str(round(seconds)), "openai-poll-after-ms": str(round(seconds * 1000))}
