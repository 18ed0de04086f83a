"""Holding a connection until a response ends, without a thread and without asking the database in between."""

import asyncio
from datetime import UTC, datetime

from fastapi import Request
from fastapi.concurrency import run_in_threadpool

from api.dependencies import Parts
from api.errors import LetGo
from jobs.job import Job
from jobs.lifecycle import Status
from jobs.store.queries import Standing, get_job

LONGEST_HINT = 10.0


async def until_ended(request: Request, parts: Parts, job_id: str, api_key_id: str, seconds: float | None) -> Job:
    """The job once it has ended, or as it stands after `seconds`, or when its client has left.

    Raises:
        JobNotFound: there is none, or it was deleted meanwhile.
        LetGo: the server stops.
    """

    def look() -> Job:
        with parts.database.read() as tx:
            return get_job(tx, job_id, api_key_id)

    loop = asyncio.get_running_loop()
    until = None if seconds is None else loop.time() + seconds
    gone = asyncio.create_task(until_disconnected(request))
    try:
        with parts.waiters.expect(job_id) as expectation:
            while True:
                job = await run_in_threadpool(look)
                left = None if until is None else until - loop.time()
                if job.status.is_terminal or gone.done() or (left is not None and left <= 0):
                    return job
                ended = asyncio.create_task(expectation.wait(left))
                await asyncio.wait({ended, gone}, return_when=asyncio.FIRST_COMPLETED)
                if not ended.done():
                    ended.cancel()
    except asyncio.CancelledError:  # uvicorn's way to end what is still held when it stops
        raise LetGo(job_id) from None
    finally:
        gone.cancel()


async def until_disconnected(request: Request) -> None:
    """Return once the client has left."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def poll_hint(job: Job | Standing) -> dict[str, str]:
    """When to ask again: soon at first, then ever more rarely; nothing once the job has ended."""
    if job.status.is_terminal:
        return {}
    now = datetime.now(UTC)
    if job.status is Status.QUEUED and job.available_at > now:
        seconds = (job.available_at - now).total_seconds() + 1
    else:
        seconds = (now - (job.started_at or job.created_at)).total_seconds() / 5
    seconds = min(max(seconds, 1.0), LONGEST_HINT)
    return {"retry-after": str(round(seconds)), "openai-poll-after-ms": str(round(seconds * 1000))}
