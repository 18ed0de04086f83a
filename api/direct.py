"""Routes that are asked far more often than all others, called without FastAPI's way to them.

Finding the route and solving its dependencies costs more than all the rest of such a request: decision 0062. FastAPI
still describes these routes, and still serves a request with a query: parameters are checked in one place.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from re import Pattern
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.routing import APIRoute
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.routing import compile_path
from starlette.types import ASGIApp, Receive, Scope, Send

from api.dependencies import Requires, bearer, get_caller, get_parts
from jobs.store.keys import ApiKey


@dataclass(frozen=True)
class _Direct:
    """A route whose endpoint takes the request, the parts, a caller, path parameters and headers that are text."""

    methods: frozenset[str]
    path: Pattern[str]
    endpoint: Callable[..., Awaitable[Response]]
    allow: Callable[[ApiKey], Awaitable[ApiKey]]
    headers: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, route: APIRoute, prefix: str) -> "_Direct":
        dependant = route.dependant
        (allow,) = (each.call for each in dependant.dependencies if isinstance(each.call, Requires))
        path, _format, _convertors = compile_path(prefix + route.path)
        headers = tuple((each.name, each.alias) for each in dependant.header_params)
        return cls(frozenset(route.methods or ()), path, route.endpoint, allow, headers)


class DirectRoutes:
    """Calls the endpoints of `routes` itself; passes on what is not theirs, and what has a query."""

    def __init__(self, app: ASGIApp, routes: Sequence[Any], prefix: str) -> None:
        self._app = app
        self._routes = [_Direct.of(each, prefix) for each in routes if isinstance(each, APIRoute)]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] == "http" and not scope["query_string"] and not scope.get("root_path"):
            for route in self._routes:
                found = route.path.match(scope["path"]) if scope["method"] in route.methods else None
                if found is not None:
                    answer = await _answer(route, found.groupdict(), Request(scope, receive))
                    await answer(scope, receive, send)
                    return
        await self._app(scope, receive, send)


async def _answer(route: _Direct, path_params: dict[str, str], request: Request) -> Response:
    parts = await get_parts(request)
    caller = await route.allow(await get_caller(parts, await bearer(request)))
    given = {name: request.headers.get(alias) for name, alias in route.headers}
    return await route.endpoint(request, parts, caller, **path_params, **given)


def install_direct_routes(app: FastAPI, routes: Sequence[Any], prefix: str) -> None:
    """Let `app`, which knows its error handlers by now, serve directly what it includes under `prefix`."""
    app.add_middleware(DirectRoutes, routes=routes, prefix=prefix)
    app.add_middleware(ExceptionMiddleware, handlers=app.exception_handlers)
