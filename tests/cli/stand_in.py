"""A stand-in for a child of `up`: `stand_in.py LOG NAME [exit STATUS] [stubborn] [deaf] [serve PORT STATUS]`.

It writes its start with its pid, and each signal that it receives, to LOG. A stubborn one ignores SIGTERM, a deaf one
also SIGQUIT. A server answers every request as `/readyz` would.
"""

import os
import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import FrameType


def note(text: str) -> None:
    with Path(sys.argv[1]).open("a") as log:
        log.write(f"{sys.argv[2]} {text}\n")


def on_signal(number: int, _frame: FrameType | None) -> None:
    name = signal.Signals(number).name
    note(name)
    traits = {"SIGTERM": ("stubborn", "deaf"), "SIGQUIT": ("deaf",)}
    if not set(traits[name]) & set(sys.argv):
        os._exit(0)


class Readyz(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b'{"status": "?", "missing": ["a live worker"]}'
        self.send_response(int(sys.argv[5]))
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        sys.stdout.write("asked\n")
        sys.stdout.flush()


def main() -> None:
    for number in (signal.SIGTERM, signal.SIGQUIT):
        signal.signal(number, on_signal)
    note(f"started {os.getpid()}")
    if "exit" in sys.argv:
        sys.exit(int(sys.argv[4]))
    if "serve" in sys.argv:
        HTTPServer(("127.0.0.1", int(sys.argv[4])), Readyz).serve_forever()
    while True:
        threading.Event().wait(60)


if __name__ == "__main__":
    main()
