"""Sends an answer: complete, as a stream, or with one of the faults that a network causes."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from simulator.answers import Answer
from simulator.call_log import Outcome
from simulator.http_server import HTML, JSON, Reply, ResponseWriter
from simulator.recorded_answers import RecordedAnswer
from simulator.script import LATE_FAULTS, Step
from simulator.stream import Event, EventStream, error_event, frame

_LONGEST_SILENCE: Final = 3600.0
_DRIP_SECONDS: Final = 0.05
_DELTA_SECONDS: Final = 0.02
_GARBAGE: Final = b"\x16\x03\x03\x00\x02\x02\x28 this is not the protocol you are looking for\r\n\r\n"
_PAGE: Final = b"<!DOCTYPE html>\n<html><head><title>One moment, please</title></head><body></body></html>\n"


@dataclass(frozen=True, slots=True)
class AnswerSender:
    """Sends one answer. `build` makes it. `bill` is called once it exists, whether or not it is received."""

    writer: ResponseWriter
    headers: Mapping[str, str]
    step: Step
    delay: float
    stream: bool
    recorded: RecordedAnswer | None
    build: Callable[[], Answer]
    bill: Callable[[], None]

    async def send(self) -> Outcome:
        """Send the answer, or the fault in its place."""
        if self.recorded is not None:
            return await self._send_recorded(self.recorded)
        if self.stream and self.step.behaviour not in ("drop-after-headers", "not-json", "no-body"):
            return await self._send_stream()
        return await self._send_plain()

    async def _send_recorded(self, recorded: RecordedAnswer) -> Outcome:
        await asyncio.sleep(self.delay)
        self.build()
        self.bill()
        headers = {**self.headers, **recorded.headers}
        if recorded.is_stream:
            headers["connection"] = "close"
        await self.writer.begin(recorded.status, headers, length=None if recorded.is_stream else len(recorded.body))
        for part in recorded.parts:
            await self.writer.write(part)
            await asyncio.sleep(self.step.every or 0)
        await self.writer.end()
        if recorded.is_stream:
            self.writer.close()
        return Outcome.ANSWERED

    async def _send_plain(self) -> Outcome:
        await asyncio.sleep(self.delay)
        answer = self.build()
        body = answer.encoded()
        headers = {**self.headers, **answer.cost_headers()}
        self.bill()
        match self.step.behaviour:
            case "not-json":
                await self.writer.send(Reply(200, _PAGE, HTML, self.headers))
                return Outcome.DROPPED
            case "no-body":
                await self.writer.send(Reply(200, b"", JSON, self.headers))
                return Outcome.DROPPED
            case "drop-after-headers" | "truncated" | "stall" | "slow":
                await self.writer.begin(200, {"content-type": JSON, **headers}, length=len(body))
                return await self._send_faulty([body])
        await self.writer.send(Reply(200, body, JSON, headers))
        return Outcome.ANSWERED

    async def _send_stream(self) -> Outcome:
        answer = self.build()
        events = EventStream(answer, self.step.behaviour, self.step.chunk)
        head = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache", **self.headers}
        await self.writer.begin(200, head)
        await self.writer.write(_frames(events.opening()))
        await asyncio.sleep(self.delay)
        middle = events.middle()
        behaviour = self.step.behaviour
        if behaviour in LATE_FAULTS:
            self.bill()
        if behaviour in ("truncated", "stall", "slow"):
            return await self._send_faulty([frame(event) for event in (*middle, *events.ending())])
        if behaviour == "stream-error":
            message = self.step.message or "An error occurred while processing your request."
            del middle[len(middle) // 2 :]
            middle.append(error_event(self.step.code or "server_error", message, after=middle[-1]))
        await self._send_paced(middle)
        if behaviour not in LATE_FAULTS:
            await self.writer.write(_frames(events.ending()))
        await self.writer.end()
        self.bill()
        return Outcome.DROPPED if behaviour in LATE_FAULTS else Outcome.ANSWERED

    async def _send_paced(self, events: Iterable[Event]) -> None:
        pause = _DELTA_SECONDS if self.step.every is None else self.step.every
        for event in events:
            await self.writer.write(frame(event))
            if pause and event["type"].endswith(".delta"):
                await asyncio.sleep(pause)

    async def _send_faulty(self, parts: list[bytes]) -> Outcome:
        """Send a body with the step's fault, after the head was sent. A cut falls inside a part, never between two."""
        behaviour = self.step.behaviour
        if behaviour == "drop-after-headers":
            self.writer.reset()
            return Outcome.DROPPED
        if behaviour == "slow":
            pause = _DRIP_SECONDS if self.step.every is None else self.step.every
            for byte in b"".join(parts):
                await self.writer.write(bytes((byte,)))
                await asyncio.sleep(pause)
            await self.writer.end()
            return Outcome.ANSWERED
        middle = len(parts) // 2
        cut = parts[middle]
        await self.writer.write(b"".join(parts[:middle]) + cut[: len(cut) // 2])
        if behaviour == "stall":
            await wait_silently(self.step)
        self.writer.close()
        return Outcome.DROPPED


async def send_early_fault(writer: ResponseWriter, step: Step) -> Outcome:
    """Send a fault that comes before any answer."""
    match step.behaviour:
        case "drop":
            writer.reset()
        case "half-open":
            await wait_silently(step)
            writer.close()
        case "garbage":
            await writer.send_raw(_GARBAGE)
            writer.close()
        case _:
            writer.close()
    return Outcome.DROPPED


async def wait_silently(step: Step) -> None:
    """Send nothing until the client disconnects, which cancels this task, or until the step's maximum."""
    await asyncio.sleep(_LONGEST_SILENCE if step.max is None else step.max)


def _frames(events: Iterable[Event]) -> bytes:
    return b"".join(map(frame, events))
