"""What every answer carries: a request id; and what none may be without: an answer."""

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import unexpected
from jobs.ids import new_id


class RequestIds:
    """Gives each HTTP answer an `x-request-id` and turns a fault of ours into OpenAI's 500.

    Plain ASGI, because Starlette's own handler for faults sits outside all middleware and so has no such header.
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
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except ClientDisconnect:  # it left while it was sending: nobody is there to be answered
            return
        except Exception as error:
            if started:
                raise
            await unexpected(error)(scope, receive, send_with_id)
