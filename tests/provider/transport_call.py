"""A call by any transport that runs beside the test, and the events of a stream."""

import json
from collections.abc import Mapping
from datetime import timedelta
from types import MappingProxyType
from typing import Any

from jobs.job import CallReport
from jobs.model_catalog import Model
from jobs.settings import Transport
from tests.provider.peer import ANSWER, BODY, Pending, Server, client_for
from worker.provider.call_handle import CallHandle

MODEL = Model("some/model")


class Call:
    """A call that runs beside the test. `accepted` are the reported ids, `batches` the numbers of reported events."""

    def __init__(
        self,
        server: Server,
        transport: Transport,
        deadline: float = 10,
        *,
        asks: Mapping[str, Any] = MappingProxyType({}),
        **options: Any,
    ) -> None:
        self.accepted: list[str] = []
        self.batches: list[int] = []
        self.handle = CallHandle()
        client = client_for(server, transport=transport, **options)
        self.pending = Pending(
            lambda: client.call(
                {**BODY, **asks},
                request_id="resp_0:1",
                model=MODEL,
                deadline=timedelta(seconds=deadline),
                handle=self.handle,
                accepted=self.accepted.append,
                on_events=lambda data: self.batches.append(len(data)),
            )
        )

    def report(self) -> CallReport:
        return self.pending.report()


def events(*frames: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n" + b"".join(frames)


def event(**fields: Any) -> bytes:
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


COMPLETED = event(type="response.completed", response=json.loads(ANSWER))
