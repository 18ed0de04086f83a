"""How long a background create takes on an idle server: `make up` in one terminal, `make bench` in another.

Prints the median and the 99th percentile of 200 creates, one after the other, beside the same number of requests to
/healthz, which touch nothing: the limit of this framework on this machine.
"""

import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import httpx

ROUNDS = 200


def main() -> None:
    base_url = os.environ.get("BACKBURNER_BASE_URL", "http://127.0.0.1:8000/v1")
    key = os.environ.get("BACKBURNER_API_KEY") or Path(".backburner/api_key").read_text("utf-8").strip()
    with httpx.Client(headers={"Authorization": f"Bearer {key}"}) as http:
        body = {"model": "openai/o3-pro", "input": "Hello", "background": True}
        print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {ROUNDS} rounds")
        report("background create", lambda: http.post(f"{base_url}/responses", json=body))
        report("healthz (the limit)", lambda: http.get(f"{base_url.removesuffix('/v1')}/healthz"))


def report(name: str, request: Callable[[], httpx.Response]) -> None:
    times = []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        request().raise_for_status()
        times.append((time.perf_counter() - begun) * 1000)
    print(f"{name:<22} p50 {statistics.median(times):6.2f} ms   p99 {statistics.quantiles(times, n=100)[98]:6.2f} ms")


if __name__ == "__main__":
    main()
