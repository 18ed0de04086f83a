"""The two answers that take as long as the job: a stream of events, and a held JSON body.

A stream keeps only the number of the next event per client. It reads no more events before the client has taken the
ones before, so a slow client costs no memory. Once it has sent all events, it sleeps until there are more.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Final

from fastapi import Request, Response
from starlette.types import Receive, Scope, Send

from api.auth import was_revoked
from api.dependencies import AppState
from api.errors import RESPONSE_ID
from api.held_limit import Hold
from api.max_wait import MaxWait
from api.response_body import render_response
from api.sse import Page, frame
from api.waiting import until_disconnected, until_ended
from jobs.encoding import to_json
from jobs.errors import JobNotFound, KeyRefused
from jobs.lifecycle import Status
from jobs.store.api_keys import ApiKey
from jobs.store.database import DATABASE_ERRORS
from jobs.store.responses import ResponseDocument
from jobs.telemetry import get_logger

KEEPALIVE_SECONDS: Final = 15.0
KEEPALIVE: Final = b": keepalive\n\n"
DONE: Final = b"data: [DONE]\n\n"
"""End of a stream in Open Responses. Every SDK accepts it, and some clients wait for it."""
BLOCK_BYTES: Final = 64 * 1024
LOOK_AGAIN_SECONDS: Final = 1.0
GONE: Final = "response_not_found"
"""Error code for a response that is deleted when it is too late for a 404."""
REFUSED: Final = "invalid_api_key"
"""Error code for a key that is revoked when it is too late for a 401."""
HEADERS: Final = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache, no-store, no-transform",
    "x-accel-buffering": "no",  # nginx would buffer the events
}


log = get_logger(__name__)


class LongResponse(Response, ABC):
    """An answer whose end is not known when it starts."""

    def __init__(self, request: Request, headers: dict[str, str], hold: Hold) -> None:
        super().__init__(headers=headers)
        del self.headers["content-length"]
        self._request = request
        self._hold = hold

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """Send block by block. The next one is produced when the client has taken the one before."""
        with self._hold:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            async with aclosing(self.blocks()) as blocks:
                async for block in blocks:
                    await send({"type": "http.response.body", "body": block, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    @abstractmethod
    def blocks(self) -> AsyncGenerator[bytes, None]:
        """Yield the body."""


class EventStream(LongResponse):
    """The events of a response, from `number` to the last."""

    def __init__(
        self,
        request: Request,
        state: AppState,
        job_id: str,
        caller: ApiKey,
        hold: Hold,
        number: int = 0,
        *,
        max_wait: MaxWait | None = None,
    ) -> None:
        """Start with event `number`. `max_wait` ends the job if the provider is unavailable for too long."""
        super().__init__(request, {**HEADERS, RESPONSE_ID: job_id}, hold)
        self._state = state
        self._job_id = job_id
        self._caller = caller
        self._number = number
        self._max_wait = max_wait
        self._has_waited = False

    async def blocks(self) -> AsyncGenerator[bytes, None]:
        """Yield events as frames, and comments that keep the connection alive in between."""
        now = asyncio.get_running_loop().time
        gone = asyncio.create_task(until_disconnected(self._request))
        try:
            with (
                self._state.listener.watch(self._job_id) as subscription,
                self._state.key_watch.watch(self._caller.sha256) as revoked,
            ):
                gone.add_done_callback(lambda _: subscription.wake())
                revoked.add_done_callback(lambda _: subscription.wake())
                sent_at = now()
                while not gone.done():
                    page = await self._page()
                    for block, events in _joined(page):
                        self._refuse_if(revoked)
                        self._number += events
                        yield block
                        sent_at = now()
                        if gone.done():
                            return
                    if page.is_last:
                        return
                    self._refuse_if(revoked)
                    self._has_waited = True
                    if page.frames:
                        continue
                    subscription.reached = self._number
                    look_at = now() + await self._until_next_look(page)
                    while not await subscription.wait(min(look_at, sent_at + KEEPALIVE_SECONDS) - now()):
                        if now() >= look_at:
                            break
                        yield KEEPALIVE
                        sent_at = now()
        except JobNotFound as error:
            yield self._error(error.message, GONE, self._number) + DONE
        except KeyRefused as error:
            yield self._error(error.message, REFUSED, self._number, "authentication_error") + DONE
        except asyncio.CancelledError:  # uvicorn cancels held requests when it stops
            message = "The server is restarting. The response continues: get the rest with 'starting_after'."
            # repeats the last number, so that the next event keeps its own
            yield self._error(message, "service_unavailable", max(self._number - 1, 0))
        finally:
            gone.cancel()

    def _refuse_if(self, revoked: "asyncio.Future[None]") -> None:
        if revoked.done():
            raise was_revoked(self._caller)

    async def _until_next_look(self, page: Page) -> float:
        """Return the seconds until the next look at the database; 0 if `max_wait` has just ended the job."""
        if self._max_wait is None:
            return page.look_again
        if await self._max_wait.has_run_out():
            return 0.0
        return min(page.look_again, self._max_wait.left)

    async def _page(self) -> Page:
        try:
            page = await self._state.sequences.read(self._job_id, self._caller.id, self._number)
            if self._has_waited and page.frames:
                await self._state.callers.recheck(self._caller)
        except DATABASE_ERRORS as error:
            log.warning("stream not read", error=type(error).__name__)
            return Page((), is_last=False, look_again=LOOK_AGAIN_SECONDS)
        return page

    def _error(self, message: str, code: str, number: int, kind: str = "server_error") -> bytes:
        # Open Responses has the nested form, the SDKs' types the flat one. The nested one makes every SDK raise its
        # APIError; with the flat one alone, Python's takes the end of the stream for the response's (decision 0013).
        details = {"code": code, "message": message, "param": None}
        return frame({"type": "error", **details, "error": {"type": kind, **details}}, number)


def _joined(page: Page) -> Iterator[tuple[bytes, int]]:
    """Yield frames joined into blocks of about `BLOCK_BYTES`, each with its number of frames."""
    block: list[bytes] = []
    size = 0
    for each in page.frames:
        block.append(each)
        size += len(each)
        if size >= BLOCK_BYTES:
            yield b"".join(block), len(block)
            block, size = [], 0
    if block or page.is_last:
        yield b"".join(block) + (DONE if page.is_last else b""), len(block)


class HeldAnswer(LongResponse):
    """The rest of a held create whose response had not ended before its headers had to be sent.

    JSON may start with white space, which keeps proxies and clients from timing out. As status 200 has been sent, a
    failure can only be shown in the response object itself.
    """

    def __init__(
        self,
        request: Request,
        state: AppState,
        submitted: ResponseDocument,
        caller: ApiKey,
        hold: Hold,
        max_wait: MaxWait | None,
    ) -> None:
        super().__init__(request, {"content-type": "application/json", RESPONSE_ID: submitted.job.id}, hold)
        self._state = state
        self._caller = caller
        self._submitted = submitted
        self._max_wait = max_wait

    async def blocks(self) -> AsyncGenerator[bytes, None]:
        """Yield white space, then the response."""
        answer = self._begin()
        try:
            while not answer.done():
                yield b" "
                await asyncio.wait({answer}, timeout=KEEPALIVE_SECONDS)
                if answer.done() and isinstance(answer.exception(), DATABASE_ERRORS):
                    log.warning("held response not read", error=type(answer.exception()).__name__)
                    await asyncio.sleep(LOOK_AGAIN_SECONDS)
                    answer = self._begin()
            yield await answer
        except JobNotFound as error:  # a whole response: SDKs break if `status` or `output` is missing
            yield self._as_submitted(status=Status.FAILED, error_code=GONE, error_message=error.message)
        except KeyRefused as error:
            yield self._as_submitted(status=Status.FAILED, error_code=REFUSED, error_message=error.message)
        except asyncio.CancelledError:  # the server stops: as submitted, so that the client can poll it
            yield self._as_submitted()
        finally:
            answer.cancel()

    def _begin(self) -> asyncio.Task[bytes]:
        task = asyncio.create_task(self._answer())
        task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # nobody may await it
        return task

    def _as_submitted(self, **changes: Any) -> bytes:
        job = replace(self._submitted.job, **changes)
        return to_json(render_response(replace(self._submitted, job=job), None))

    async def _answer(self) -> bytes:
        job_id = self._submitted.job.id
        rendered = await until_ended(self._request, self._state, job_id, self._caller, None, self._max_wait)
        await self._state.callers.recheck(self._caller)
        return rendered.body
