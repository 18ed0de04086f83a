"""The composition root of the simulator: routes, sockets, and the process's life."""

import asyncio
import resource
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from types import MappingProxyType

from simulator.admin_api import AdminApi
from simulator.background import BackgroundResponses
from simulator.billing_api import BillingApi
from simulator.catalogue import Catalogue
from simulator.errors import HttpError
from simulator.http_server import Connection, Handler, Request, ResponseWriter
from simulator.options import Options
from simulator.responses import Responses, not_found
from simulator.state import State

_BACKLOG = 4096  # ten thousand calls may arrive at once


class Simulator:
    """The simulated provider on loopback.

    Use it in a running event loop: `start`, then `url`, then `stop`.
    """

    def __init__(self, options: Options | None = None) -> None:
        self._state = State(options or Options())
        background = BackgroundResponses(self._state)
        responses = Responses(self._state, background)
        catalogue = Catalogue(self._state)
        billing_api = BillingApi(self._state)
        admin = AdminApi(self._state, background, billing_api)
        self._background = background
        self._connections: set[Connection] = set()
        self._server: asyncio.Server | None = None
        self.url = ""
        # fmt: off
        self._routes: Mapping[tuple[str, str], Handler] = MappingProxyType({
            ("POST",   "/v1/responses"):        responses.create,
            ("GET",    "/v1/responses/*"):      background.retrieve,
            ("POST",   "/v1/responses/*"):      background.cancel,
            ("DELETE", "/v1/responses/*"):      background.delete,
            ("GET",    "/v1/models"):           catalogue.list_models,
            ("GET",    "/models"):              catalogue.list_models,
            ("GET",    "/model/*"):             catalogue.get_model,
            ("GET",    "/v2/logs"):             billing_api.logs,
            ("GET",    "/v2/billing"):          billing_api.billing,
            ("GET",    "/_calls"):              admin.list_calls,
            ("DELETE", "/_calls"):              admin.delete_calls,
            ("GET",    "/_script"):             admin.show_options,
            ("PUT",    "/_script"):             admin.change_options,
            ("DELETE", "/_script"):             admin.restore_options,
            ("GET",    "/_health"):             admin.health,
        })
        # fmt: on

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Listen on `host` and `port`, and set `url`. Port 0 means any free port."""
        options = self._state.options
        self._server = await asyncio.get_running_loop().create_server(
            lambda: Connection(self._handle, self._connections, options.max_body_bytes), host, port, backlog=_BACKLOG
        )
        bound_host, bound_port, *_ = self._server.sockets[0].getsockname()
        self.url = f"http://[{bound_host}]:{bound_port}" if ":" in bound_host else f"http://{bound_host}:{bound_port}"

    async def stop(self) -> None:
        """Stop listening and abort every call."""
        if self._server is not None:
            self._server.close()
        self._background.reset()
        aborted = [connection.abort() for connection in self._connections]
        await asyncio.gather(*(task for task in aborted if task is not None), return_exceptions=True)

    async def _handle(self, request: Request, writer: ResponseWriter) -> None:
        path = request.path.rstrip("/")
        handler = self._routes.get((request.method, path))
        if handler is None:
            handler = self._routes.get((request.method, _pattern(path)), not_found)
        try:
            await handler(request, writer)
        except HttpError as error:
            await writer.send(error.reply)


def _pattern(path: str) -> str:
    if path.startswith("/model/"):
        return "/model/*"
    return "/v1/responses/*" if path.startswith("/v1/responses/") else path


async def serve(host: str, port: int, options: Options | None = None) -> None:
    """Run a simulator until SIGTERM or SIGINT. Its address is printed to standard output."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    simulator = Simulator(options)
    await simulator.start(host, port)
    sys.stdout.write(f"simulator listening on {simulator.url}\n")
    sys.stdout.flush()
    await stopping.wait()
    await simulator.stop()


def run(host: str = "127.0.0.1", port: int = 0, options: Options | None = None) -> None:
    """Run `serve` and block. Raise the limit of open files to the maximum, as each held call needs one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # macOS refuses an unlimited hard limit
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    asyncio.run(serve(host, port, options))
