"""Play one client's scenarios in every world, several at a time: one line of JSON each.

The first line of the input holds the worlds and, if not all of them, the names of the scenarios. How a paid, empty
answer ends is the client's own affair, so those scenarios (`empty_...`) always pass; the call log shows their cost.
"""

import faulthandler
import importlib
import json
import os
import sys
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.metadata import version

from tests.clients.python.user import SCENARIOS, STATEFUL, Json, User

AT_ONCE = 6
LONGEST = 2000
_printing = threading.Lock()
_out = os.fdopen(os.dup(1), "w")


def tell(line: Json) -> None:
    with _printing:
        _out.write(json.dumps(line) + "\n")
        _out.flush()


def play(world: str, settings: Json, client: str, name: str) -> None:
    began = time.monotonic()
    error = None
    try:
        SCENARIOS[name](User(client=client, scenario=name, **settings))
    except BaseException as raised:  # noqa: BLE001  # whatever a scenario dies of is its result
        error = report(raised)
    seconds = round(time.monotonic() - began, 2)
    ended = error is None or name.startswith("empty_")
    tell({"world": world, "scenario": name, "ok": ended, "error": error and error[:LONGEST], "seconds": seconds})


def report(error: BaseException) -> str:
    """Where in the scenario it happened, and what; the client's own frames are many and tell nothing."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/tests/clients/" in frame.filename]
    return "".join([*traceback.format_list(frames[1:]), *traceback.format_exception_only(error)])


def main() -> None:
    client = sys.argv[1]
    os.dup2(2, 1)  # clients print what they like; the results are ours
    wanted = json.loads(sys.stdin.readline())
    faulthandler.dump_traceback_later(wanted["seconds"], exit=True)  # a client that hangs shows where
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        os.environ.pop(name, None)
    module = importlib.import_module(f"tests.clients.python.{client}")
    names = [name for name in SCENARIOS if name in (wanted.get("scenarios") or SCENARIOS)]
    tell({"versions": {package: version(package) for package in module.PACKAGES}, "scenarios": names})
    for world, settings in wanted["worlds"].items():
        stateless = settings.pop("stateless", False)
        here = [name for name in names if not (stateless and name in STATEFUL)]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(partial(play, world, settings, client.replace("_", "-")), here))


main()
