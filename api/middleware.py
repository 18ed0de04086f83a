"""The layers that every request and answer goes through, whatever its path.

Plain ASGI: an answer must leave as it comes, and what is done for all of them must cost next to nothing.
"""

import asyncio
from collections.abc import Collection
from typing import Final

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import FINAL, INVALID_REQUEST, NOT_KEPT, RESPONSE_ID, error_body, no_socket, unexpected
from jobs.ids import new_id

REQUEST_ID: Final = "x-request-id"
_REQUEST_ID: Final = REQUEST_ID.encode()
_NO_SNIFF, _NO_STORE = ((name.encode(), value.encode()) for name, value in NOT_KEPT.items())
_CACHE_CONTROL: Final = _NO_STORE[0]
RESPONSES: Final = "/v1/responses"
ALLOWED_METHODS: Final = ("GET", "POST", "DELETE", "OPTIONS")
EXPOSED: Final = (REQUEST_ID, RESPONSE_ID, "retry-after", "openai-poll-after-ms", "etag", "x-should-retry")
"""Headers of ours that a browser hides from a page of another origin unless they are named."""


class TrailingSlash:
    """Serves `/v1/responses/` as `/v1/responses`: what it passes on has no slash at its end.

    Starlette would redirect, to whatever host the client named, and some clients do not follow with a POST.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "lifespan" and scope["path"].endswith("/") and scope["path"] != "/":
            scope["path"] = scope["path"][:-1]
        await self._app(scope, receive, send)


class NoSockets:
    """Answers the handshake of a WebSocket over HTTP, in OpenAI's shape: clients then fall back to HTTP at once."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if not _asks_for_socket(scope):
            await self._app(scope, receive, send)
            return
        answer = no_socket(scope["path"], is_responses=_is_of_responses(scope))
        answer.headers.update({REQUEST_ID: new_id("req"), **NOT_KEPT})
        await answer(scope, receive, send)
        if scope["type"] == "websocket":
            await asyncio.sleep(0)  # uvicorn complains of an app that returns before the connection is closed


def _asks_for_socket(scope: Scope) -> bool:
    """Whether it is a handshake, even one that a proxy has taken the `Upgrade` out of."""
    if scope["type"] != "http":
        return bool(scope["type"] == "websocket")
    return scope["method"] == "GET" and _is_of_responses(scope) and "sec-websocket-key" in Headers(scope=scope)


def _is_of_responses(scope: Scope) -> bool:
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", "")) == RESPONSES


def allow_origins(app: ASGIApp, origins: Collection[str]) -> ASGIApp:
    """`app`, open to pages of these origins, if there are any."""
    return _Cors(app, origins) if origins else app


class _Cors(CORSMiddleware):
    """Starlette's, whose own answers, those to preflights, have a request id and OpenAI's shape as all others."""

    def __init__(self, app: ASGIApp, origins: Collection[str]) -> None:
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=ALLOWED_METHODS,
            allow_headers=("*",),
            allow_private_network=True,  # whoever names an origin means it to reach this server, wherever that is
            expose_headers=EXPOSED,
        )

    def preflight_response(self, request_headers: Headers) -> Response:
        """Answer a browser that asks what a page may send; no key comes with that."""
        answer = super().preflight_response(request_headers)
        if answer.status_code >= 400:
            said = {name: value for name, value in answer.headers.items() if not name.startswith("content-")}
            body = error_body(f"{bytes(answer.body).decode()}.", INVALID_REQUEST)
            answer = JSONResponse(body, answer.status_code, {**said, **FINAL})
        answer.headers.update({REQUEST_ID: new_id("req"), **NOT_KEPT})
        return answer


class RequestIds:
    """Gives each HTTP answer an `x-request-id` and what keeps it from being kept, and turns a fault of ours into a 500.

    Starlette's own handler for faults sits outside all middleware and so has no such header.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = new_id("req")
        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = [*message["headers"], (_REQUEST_ID, request_id.encode()), _NO_SNIFF]
                if not any(name == _CACHE_CONTROL for name, _ in headers):
                    headers.append(_NO_STORE)
                message["headers"] = headers
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except ClientDisconnect:  # it left while it was sending: nobody is there to be answered
            return
        except Exception as error:
            if started:
                raise
            await unexpected(error, scope["method"])(scope, receive, send_with_id)
