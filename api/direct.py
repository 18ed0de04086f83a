"""Routes that are asked far more often than all others, called without FastAPI's solving of dependencies.

That costs more than the rest of such a request. The signature still describes the route, and a request with a query
still goes by it: parameters are checked in one place.
"""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from api.dependencies import Requires, bearer, get_caller, get_parts


class DirectRoute(APIRoute):
    """Its endpoint takes the request, the parts, a caller with a scope, path parameters and optional headers."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The endpoint itself, for requests without a query."""
        solved = super().get_route_handler()
        endpoint = self.endpoint
        headers = [(each.name, each.alias) for each in self.dependant.header_params]
        (allow,) = (each.call for each in self.dependant.dependencies if isinstance(each.call, Requires))

        async def handle(request: Request) -> Response:
            if request.scope["query_string"]:
                return await solved(request)
            parts = await get_parts(request)
            caller = await allow(await get_caller(parts, await bearer(request)))
            given = {name: request.headers.get(alias) for name, alias in headers}
            answer: Response = await endpoint(request, parts, caller, **request.path_params, **given)
            return answer

        return handle
