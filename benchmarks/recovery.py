"""Seconds until the calls of a killed worker run again: `python -m benchmarks.recovery`.

It starts PostgreSQL, Valkey, the simulator, an API and two workers with the default timeout of 10 s. One worker holds
all the calls when it is killed. The other, started after the claims, takes them over.
"""

import argparse
import tempfile
import time
from pathlib import Path

from kombu.transport.redis import Channel as RedisChannel

from tests.support.postgres import Databases, PostgresServer
from tests.support.stack import Stack
from tests.support.valkey import ValkeyServer
from tests.support.waiting import await_until


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=200)
    calls: int = parser.parse_args().calls
    with (
        tempfile.TemporaryDirectory() as directory,
        PostgresServer() as postgres,
        ValkeyServer() as valkey,
    ):
        url = Databases(postgres.url).migrated()
        environment = {"BACKBURNER_WORKER_CONCURRENCY": str(calls)}
        with Stack(url, valkey.url, Path(directory), environment) as stack:
            measure(stack, calls)


def measure(stack: Stack, calls: int) -> None:
    body = {"model": "openai/o3-pro", "input": "[[sim: full delay=600]] Hello", "background": True}
    with stack.http() as http:
        for _ in range(calls):
            http.post("/responses", json=body).raise_for_status()
    await_until(lambda: len(stack.calls()) == calls, 120, stack.logs)
    survivor = stack.start_worker()
    survivor.match("worker registered", 60)
    stack.worker_processes[0].kill()
    killed_at = time.monotonic()

    def running_again() -> int:
        return sum(str(call["client_request_id"]).endswith(":2") for call in stack.calls())

    await_until(running_again, 60, stack.logs)
    first = time.monotonic() - killed_at
    await_until(lambda: running_again() == calls, 60, stack.logs)
    last = time.monotonic() - killed_at
    print(f"SIGKILL of a worker with {calls} calls in flight, worker timeout 10 s")
    print(f"first call running again after {first:.1f} s, all {calls} after {last:.1f} s")
    print(f"plain Celery on Redis, by its default: {RedisChannel.visibility_timeout} s")


if __name__ == "__main__":
    main()
