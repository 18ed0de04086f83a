"""Holding a connection until a response ends, without a thread and without asking the database in between."""

import asyncio
from typing import Any

from fastapi import Request

from api.auth import was_revoked
from api.dependencies import AppState
from api.errors import LetGo
from api.max_wait import MaxWait
from api.response_view import Shown
from jobs.store.api_keys import ApiKey


async def until_ended(
    request: Request,
    state: AppState,
    job_id: str,
    caller: ApiKey,
    seconds: float | None,
    max_wait: MaxWait | None = None,
) -> Shown:
    """The caller's response once it has ended, or as it stands after `seconds`, or when its client has left.

    Where the provider is away for longer than `patience` lasts, this ends it.

    Raises:
        JobNotFound: there is none, or it was deleted meanwhile.
        KeyRefused: the caller's key was revoked meanwhile.
        LetGo: the server stops.
    """
    loop = asyncio.get_running_loop()
    until = None if seconds is None else loop.time() + seconds
    gone = asyncio.create_task(until_disconnected(request))
    has_waited = False
    try:
        with state.listener.expect(job_id) as subscription, state.key_watch.watch(caller.sha256) as revoked:
            while True:
                shown = await state.shown.do((job_id, caller.id))
                left = None if until is None else until - loop.time()
                if shown.job.status.is_terminal or gone.done() or (left is not None and left <= 0):
                    if has_waited:
                        await state.callers.recheck(caller)
                    return shown
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
    except asyncio.CancelledError:  # uvicorn's way to end what is still held when it stops
        raise LetGo(job_id) from None
    finally:
        gone.cancel()


async def until_disconnected(request: Request) -> None:
    """Return once the client has left."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
