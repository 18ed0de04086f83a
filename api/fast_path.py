"""Routes that are asked far more often than all others, called without FastAPI's way to them.

Finding the route and solving its dependencies costs more than all the rest of such a request: decision 0005. FastAPI
still describes these routes, and still serves a request with a query: parameters are checked in one place.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from re import Pattern
from typing import Any, Final

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.routing import compile_path
from starlette.types import ASGIApp, ExceptionHandler, Receive, Scope, Send

from api.auth import Submitter
from api.dependencies import AppState, Requires, RequiresOfSubmitter, secret_in
from api.middleware import RequestIds
from jobs.store.api_keys import ApiKey

Handlers = Mapping[Any, ExceptionHandler]
ALLOWING: Final = (Requires, RequiresOfSubmitter)
_FOUND: Final = "path_params"


class _Direct:
    """A route whose endpoint takes the request, the parts, a caller, path parameters and headers that are text."""

    def __init__(self, route: APIRoute, prefix: str, handlers: Handlers, state: AppState) -> None:
        (allow,) = (each.call for each in route.dependant.dependencies if isinstance(each.call, ALLOWING))
        self.methods = frozenset(route.methods or ())
        self.path: Pattern[str] = compile_path(prefix + route.path)[0]
        self._endpoint: Callable[..., Awaitable[Response]] = route.endpoint
        self._allow: Callable[[AppState, str | None], Awaitable[ApiKey | Submitter]] = allow
        self._headers = [(each.name, each.alias.encode()) for each in route.dependant.header_params]
        self._handlers = handlers
        self._state = state

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            answer = await self._answer(Request(scope, receive))
            await answer(scope, receive, send)
        except Exception as error:  # noqa: BLE001  # raised again where the handlers are called, or beyond them
            await ExceptionMiddleware(_raising(error), self._handlers)(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        sent = {name: value.decode("latin-1") for name, value in reversed(request.scope["headers"])}  # the first counts
        caller = await self._allow(self._state, secret_in(sent.get(b"authorization")))
        given = {name: sent.get(alias) for name, alias in self._headers}
        return await self._endpoint(request, self._state, caller, **request.scope[_FOUND], **given)


class DirectRoutes:
    """Calls the endpoints of `routes` itself; passes on what is not theirs, and what has a query."""

    def __init__(self, app: ASGIApp, routes: Sequence[Any], prefix: str, handlers: Handlers, state: AppState) -> None:
        """`app` serves what is passed on; `handlers` answer what an endpoint raises, as Starlette's do."""
        self._app = app
        direct = [_Direct(each, prefix, handlers, state) for each in routes if isinstance(each, APIRoute)]
        self._routes = [(each.methods, each.path, RequestIds(each)) for each in direct]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] == "http" and not scope["query_string"] and not scope.get("root_path"):
            for methods, path, serve in self._routes:
                found = path.match(scope["path"]) if scope["method"] in methods else None
                if found is not None:
                    scope[_FOUND] = found.groupdict()
                    await serve(scope, receive, send)
                    return
        await self._app(scope, receive, send)


def _raising(error: Exception) -> ASGIApp:
    async def app(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise error

    return app
