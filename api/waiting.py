"""Holding a connection until a response ends, without a thread and without polling the database."""

import asyncio
from typing import Any

from fastapi import Request

from api.auth import was_revoked
from api.dependencies import AppState
from api.errors import ServerStopping
from api.max_wait import MaxWait
from api.response_view import RenderedBody
from jobs.store.api_keys import ApiKey


async def until_ended(
    request: Request,
    state: AppState,
    job_id: str,
    caller: ApiKey,
    seconds: float | None,
    max_wait: MaxWait | None = None,
) -> RenderedBody:
    """Return the caller's response once it has ended, after `seconds`, or when the client disconnects.

    `max_wait` ends the job if the provider is unavailable for too long.

    Raises:
        JobNotFound: it does not exist, belongs to another key, or was deleted meanwhile.
        KeyRefused: the caller's key was revoked meanwhile.
        ServerStopping: the server stops.
    """
    loop = asyncio.get_running_loop()
    until = None if seconds is None else loop.time() + seconds
    gone = asyncio.create_task(until_disconnected(request))
    has_waited = False
    try:
        with state.listener.subscribe(job_id) as subscription, state.key_watch.watch(caller.sha256) as revoked:
            while True:
                rendered = await state.bodies.do((job_id, caller.id))
                left = None if until is None else until - loop.time()
                if rendered.job.status.is_terminal or gone.done() or (left is not None and left <= 0):
                    if has_waited:
                        await state.callers.recheck(caller)
                    return rendered
                if max_wait is not None:
                    if await max_wait.has_run_out():
                        continue
                    left = max_wait.left if left is None else min(left, max_wait.left)
                ended = asyncio.create_task(subscription.wait(left))
                awaited: set[asyncio.Future[Any]] = {ended, gone, revoked}
                await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
                if not ended.done():
                    ended.cancel()
                if revoked.done():
                    raise was_revoked(caller)
                has_waited = True
    except asyncio.CancelledError:  # uvicorn cancels held requests when it stops
        raise ServerStopping(job_id) from None
    finally:
        gone.cancel()


async def until_disconnected(request: Request) -> None:
    """Return once the client has disconnected."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
