"""Plain Starlette routes for the two requests that clients send far more often than all others.

FastAPI's solving of dependencies costs more than the rest of such a request: decision 0004. FastAPI's own routes still
describe them, and serve every request with a query, so that parameters are checked in one place.
"""

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.routing import Match, Route
from starlette.types import Receive, Scope, Send

from api.auth import Submitter
from api.dependencies import AppState, Requires, RequiresOfSubmitter, secret_in
from jobs.store.api_keys import ApiKey

AUTHORIZATIONS: Final = (Requires, RequiresOfSubmitter)


def fast_routes(routes: Iterable[Any], prefix: str, state: AppState) -> list[Route]:
    """Return a route to put in front of each of FastAPI's `routes`, whose paths begin with `prefix`."""
    return [_FastRoute(each, prefix, state) for each in routes if isinstance(each, APIRoute)]


class _FastRoute(Route):
    """Calls an endpoint that takes the request, the app's state, a caller, path parameters and headers as text."""

    def __init__(self, route: APIRoute, prefix: str, state: AppState) -> None:
        (authorize,) = (each.call for each in route.dependant.dependencies if isinstance(each.call, AUTHORIZATIONS))
        self._methods = frozenset(route.methods or ())
        self._endpoint: Callable[..., Awaitable[Response]] = route.endpoint
        self._authorize: Callable[[AppState, str | None], Awaitable[ApiKey | Submitter]] = authorize
        self._headers = [(each.name, each.alias.encode()) for each in route.dependant.header_params]
        self._state = state
        super().__init__(prefix + route.path, self._respond, methods=list(self._methods), include_in_schema=False)

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Match requests without a query. FastAPI's routes serve all others, 405 included."""
        if scope["type"] != "http" or scope["query_string"] or scope["method"] not in self._methods:
            return Match.NONE, {}
        return super().matches(scope)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond without the layers that Starlette puts around a function; the app's middleware handles errors."""
        response = await self._respond(Request(scope, receive))
        await response(scope, receive, send)

    async def _respond(self, request: Request) -> Response:
        sent = {name: value.decode("latin-1") for name, value in reversed(request.scope["headers"])}  # the first counts
        caller = await self._authorize(self._state, secret_in(sent.get(b"authorization")))
        given = {name: sent.get(alias) for name, alias in self._headers}
        return await self._endpoint(request, self._state, caller, **request.path_params, **given)
