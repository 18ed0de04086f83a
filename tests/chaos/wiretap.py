"""Reads every command that the broker gets, over a connection of its own without faults."""

import base64
import re
import socket
import threading
from contextlib import suppress
from typing import Final

from tests.chaos.clients import Seen
from tests.chaos.plan import ANSWER_MARK, PROMPT_MARK
from tests.chaos.world import World
from tests.support.server import HOST

ENCODED_BODY: Final = re.compile(rb'"body\\*": *\\*"([A-Za-z0-9+/=]+)')


def listen(world: World, seen: Seen, over: threading.Event) -> None:
    """Look for prompts, answers and secrets until the run is over. Commands during the broker's restarts are missed."""
    marks = [mark.encode() for mark in (PROMPT_MARK, ANSWER_MARK, *world.secrets())]
    while not over.is_set():
        with suppress(OSError), socket.create_connection((HOST, world.valkey.port), timeout=1) as line:
            line.sendall(b"MONITOR\r\n")
            _read_along(line, seen, marks, over)
        over.wait(0.2)


def _read_along(line: socket.socket, seen: Seen, marks: list[bytes], over: threading.Event) -> None:
    unread = b""
    while not over.is_set():
        try:
            chunk = line.recv(65_536)
        except TimeoutError:
            continue
        if not chunk or chunk.startswith(b"-"):  # a refusal, as of a password that it asks for
            return
        *commands, unread = (unread + chunk).split(b"\r\n")
        for command in commands:
            seen.broker_commands += 1
            for text in (command, *(base64.b64decode(body) for body in ENCODED_BODY.findall(command))):
                if any(mark in text for mark in marks):
                    seen.broker_leaks.append(text.decode(errors="replace"))
