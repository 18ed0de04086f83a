"""ASGI layers for every request, whatever its path.

Plain ASGI, so that answers are passed on as they are, at almost no cost.
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
"""Headers that a browser hides from pages of another origin unless they are named."""


class TrailingSlash:
    """Removes a trailing slash: serves `/v1/responses/` as `/v1/responses`.

    Starlette would redirect to the host that the client named, and some clients do not follow a redirect with a POST.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "lifespan" and scope["path"].endswith("/") and scope["path"] != "/":
            scope["path"] = scope["path"][:-1]
        await self._app(scope, receive, send)


class NoSockets:
    """Answers a WebSocket handshake with an HTTP error in OpenAI's shape, so that clients fall back to HTTP at once."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if not _asks_for_socket(scope):
            await self._app(scope, receive, send)
            return
        answer = no_socket(scope["path"], is_responses=_is_of_responses(scope))
        answer.headers.update({REQUEST_ID: new_id("req"), **NOT_KEPT})
        await answer(scope, receive, send)
        if scope["type"] == "websocket":
            await asyncio.sleep(0)  # uvicorn logs an error if the app returns before the connection is closed


def _asks_for_socket(scope: Scope) -> bool:
    """Return whether it is a WebSocket handshake, even if a proxy has removed its `Upgrade` header."""
    if scope["type"] != "http":
        return bool(scope["type"] == "websocket")
    return scope["method"] == "GET" and _is_of_responses(scope) and "sec-websocket-key" in Headers(scope=scope)


def _is_of_responses(scope: Scope) -> bool:
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", "")) == RESPONSES


def allow_origins(app: ASGIApp, origins: Collection[str]) -> ASGIApp:
    """Return `app`, open to pages of these origins if there are any."""
    return _Cors(app, origins) if origins else app


class _Cors(CORSMiddleware):
    """Starlette's CORS layer, whose answers to preflights have a request id and OpenAI's error shape."""

    def __init__(self, app: ASGIApp, origins: Collection[str]) -> None:
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=ALLOWED_METHODS,
            allow_headers=("*",),
            allow_private_network=True,  # an allowed origin may reach this server on any network
            expose_headers=EXPOSED,
        )

    def preflight_response(self, request_headers: Headers) -> Response:
        """Answer a browser's preflight request, which has no key."""
        answer = super().preflight_response(request_headers)
        if answer.status_code >= 400:
            headers = {name: value for name, value in answer.headers.items() if not name.startswith("content-")}
            body = error_body(f"{bytes(answer.body).decode()}.", INVALID_REQUEST)
            answer = JSONResponse(body, answer.status_code, {**headers, **FINAL})
        answer.headers.update({REQUEST_ID: new_id("req"), **NOT_KEPT})
        return answer


class RequestIds:
    """Adds `x-request-id` and `NOT_KEPT` to each HTTP answer, and turns unexpected errors into a 500.

    Starlette's own handler for these sits outside all middleware, so its answers would lack the headers.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
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
        except ClientDisconnect:  # the client left while it sent its body: no answer is possible
            return
        except Exception as error:
            if started:
                raise
            await unexpected(error, scope["method"])(scope, receive, send_with_id)
