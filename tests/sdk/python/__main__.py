"""Play every scenario, several at a time, and print what was seen: one line of JSON each.

The first line of the input says who the user is, each other one that the next stage may begin.
"""

import json
import sys
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import openai

from tests.sdk.python import busy, conversations, errors, parameters, patience, responses, retries, streams, webhooks
from tests.sdk.python.user import SCENARIOS, Absent, Json, User

STAGES = ((patience, responses, parameters, errors, retries, conversations, streams, webhooks), (busy,))
AT_ONCE = 10

_printing = threading.Lock()


def tell(line: Json) -> None:
    with _printing:
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


def play(user: User, name: str) -> None:
    try:
        tell({"scenario": name, "facts": SCENARIOS[name](replace(user, scenario=name))})
    except Absent as absent:
        tell({"scenario": name, "absent": str(absent)})
    except BaseException as error:  # noqa: BLE001  # whatever a scenario dies of is its result
        tell({"scenario": name, "error": report(error)})


def report(error: BaseException) -> str:
    """Where in the scenario it happened, and what; the SDK's own frames are many and tell nothing."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/tests/sdk/" in frame.filename]
    return "".join([*traceback.format_list(frames[1:]), *traceback.format_exception_only(error)])


def main() -> None:
    user = User(**json.loads(sys.stdin.readline()))
    tell({"version": openai.__version__, "scenarios": list(SCENARIOS)})
    for stage in STAGES:
        names = [name for part in stage for name, act in SCENARIOS.items() if act.__module__ == part.__name__]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            pool.map(partial(play, user), names)
        tell({"stage": "over"})
        sys.stdin.readline()  # until all others are as far


main()
