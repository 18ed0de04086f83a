"""The plain API and the limits that ours is compared with where no queue is needed, started for one benchmark."""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

import psycopg

from benchmarks.stage import Stage
from tests.support.stack import ROOT, Process

AS_OURS = {"UVICORN_HTTP": "api.http_protocol:Protocol"}
"""For limits: send an answer in one piece, as ours does."""
ROW = "INSERT INTO commits (body) VALUES (repeat('x', 500));\n"


@contextmanager
def asgi(program: str, environment: Mapping[str, str] = MappingProxyType({})) -> Iterator[str]:
    """Run `benchmarks.peers.<program>:app` on uvicorn, in one process; yield its URL."""
    target = f"benchmarks.peers.{program}:app"
    command = [sys.executable, "-m", "uvicorn", target, "--port", "0", "--no-access-log"]
    process = Process(program, command, {"PYTHONPATH": str(ROOT), **environment})
    try:
        yield process.match(r"running on (http://127\.0\.0\.1:\d+)")[1]
    finally:
        process.stop()


@contextmanager
def naive_api(servers: Stage) -> Iterator[str]:
    """Run FastAPI with the async ORM and `apply_async` on an empty database and Valkey; yield its URL."""
    servers.valkey.flush()
    url = servers.databases.empty()
    with asgi("naive_api", {"DATABASE_URL": url, "BROKER_URL": servers.valkey.url}) as base_url:
        yield base_url
    servers.databases.drop(url)


@contextmanager
def memory_api(body: bytes) -> Iterator[str]:
    """Run a FastAPI that answers `body` to `GET /v1/responses/{any}`; yield its URL."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(body)
        file.flush()
        with asgi("memory_api", {"BODY_FILE": file.name, **AS_OURS}) as base_url:
            yield base_url


def bare_aiohttp(provider_url: str, calls: int, prompt: str) -> dict[str, float]:
    """Make `calls` calls at once; return `idle_bytes`, `peak_bytes` (USS) and `cpu_seconds` of their process."""
    command = [sys.executable, "-m", "benchmarks.peers.bare_aiohttp", str(calls), prompt]
    environment = {**os.environ, "PROVIDER_URL": provider_url}
    done = subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def pgbench(servers: Stage, *, clients: int, seconds: int) -> tuple[float, list[float]]:
    """Commit single rows; return the commits per second, and the latency of each in milliseconds."""
    url = servers.databases.empty()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE commits (id bigserial PRIMARY KEY, body text NOT NULL)")
    with tempfile.TemporaryDirectory() as directory:
        script = Path(directory, "commit.sql")
        script.write_text(ROW, "utf-8")
        command = [str(servers.postgres.programs / "pgbench"), "--no-vacuum", "--file", str(script), "--log"]
        command += ["--client", str(clients), "--jobs", "2", "--time", str(seconds), url]
        done = subprocess.run(command, cwd=directory, check=True, capture_output=True, text=True)
        lines = [line for log in Path(directory).glob("pgbench_log.*") for line in log.read_text("utf-8").splitlines()]
    servers.databases.drop(url)
    rate = re.search(r"tps = ([\d.]+)", done.stdout)
    assert rate is not None, done.stdout
    return float(rate[1]), [int(line.split()[2]) / 1000 for line in lines]
