"""All SDKs at once against one server; the tests look at what each of them saw.

The Python SDKs lie under `.venv/sdk`, each from its own lock, and run without the site-packages of this environment;
only the newest is the one that all other tests use. Node comes out of a wheel, its SDK out of `package-lock.json`.
"""

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import pytest
import standardwebhooks

from jobs.encryption import generate_key
from jobs.store.api_keys import Scope, create_key
from jobs.store.database import Database
from jobs.webhooks.protocol import SECRET_BYTES, new_secret
from tests.sdk.lossy import LossyProxy
from tests.support.stack import ROOT, Stack
from tests.support.valkey import ValkeyServer
from tests.support.webhook_endpoint import OK, Answer, Delivered, Destination

SECONDS = 240
NODE_DIR = ROOT / "tests/sdk/node"
PYTHON_SDKS = ROOT / ".venv/sdk"


@dataclass(frozen=True)
class Sdk:
    """One run of the scenarios. `directory` holds an SDK of its own; without one it is this environment's.

    `transport` is how the worker awaits answers. A stream is made of a whole answer under `plain`, and passed on as the
    provider sends it under `stream`: users must see no difference. `lacks` names features missing in this version.
    """

    name: str
    language: str
    transport: str
    directory: Path | None = None
    strict: bool = False
    lacks: frozenset[str] = frozenset()

    @property
    def command(self) -> list[str]:
        if self.language == "node":
            node = Path(sys.executable).with_name("node")
            return [str(node), str(NODE_DIR / "main.mjs")]
        alone = ["-S"] if self.directory else []
        return [sys.executable, "-W", "error", *alone, "-m", "tests.sdk.python"]

    @property
    def environment(self) -> Mapping[str, str]:
        paths = [str(self.directory)] if self.directory else []
        return {"PYTHONPATH": os.pathsep.join([*paths, str(ROOT)])}


LACKED_BY_1 = frozenset({"responses.compact", "responses.input_tokens", "webhooks.create"})
SDKS = [
    Sdk("python-1.109", "python", "plain", PYTHON_SDKS / "1.109", strict=True, lacks=LACKED_BY_1),
    Sdk("python-2.54", "python", "stream", PYTHON_SDKS / "2.54", strict=True, lacks=frozenset({"webhooks.create"})),
    Sdk("python-3.51", "python", "plain", PYTHON_SDKS / "3.51", strict=True),
    Sdk("python-strict", "python", "stream", strict=True),
    Sdk("python", "python", "plain"),
    Sdk("node", "node", "plain"),
    Sdk("node-live", "node", "stream"),
]


@dataclass
class Run:
    """Output of one SDK."""

    sdk: Sdk
    version: str = "(it did not start)"
    scenarios: list[str] = field(default_factory=list)
    seen: dict[str, dict[str, Any]] = field(default_factory=dict)
    errors: str = ""
    webhook_secret: str = field(default_factory=lambda: new_secret(secrets.token_bytes(SECRET_BYTES)))
    verified: list[bool] = field(default_factory=list)

    def answer(self, delivered: Delivered) -> Answer:
        """Answer as an endpoint does that verifies by the reference implementation of Standard Webhooks."""
        try:
            standardwebhooks.Webhook(self.webhook_secret).verify(delivered.body, dict(delivered.headers))
        except standardwebhooks.WebhookVerificationError:
            self.verified.append(False)
            return Answer(400)
        self.verified.append(True)
        return Answer(204, body=b"")

    def play(self, settings: Mapping[str, Any], stage: threading.Barrier) -> None:
        """Run the program to its end; each stage begins when all programs have ended the one before."""
        with tempfile.TemporaryFile("w+") as errors, self._start(errors) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            deadline = threading.Timer(SECONDS, process.kill)
            deadline.start()
            with suppress(BrokenPipeError):
                self._say(process.stdin, json.dumps(settings))
                for line in process.stdout:
                    if self._receive(json.loads(line)):
                        with suppress(threading.BrokenBarrierError):
                            stage.wait(SECONDS)
                        self._say(process.stdin, "go on")
            stage.abort()  # nobody waits for one that is no more
            process.wait()
            deadline.cancel()
            errors.seek(0)
            self.errors = errors.read()

    def _start(self, errors: IO[str]) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            self.sdk.command,
            cwd=ROOT,
            env={**os.environ, **self.sdk.environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )

    def _say(self, stdin: IO[str], line: str) -> None:
        stdin.write(line + "\n")
        stdin.flush()

    def _receive(self, reported: dict[str, Any]) -> bool:
        """Return whether a stage is over."""
        if "version" in reported:
            self.version, self.scenarios = reported["version"], reported["scenarios"]
        elif "scenario" in reported:
            self.seen[reported.pop("scenario")] = reported
        return "stage" in reported


@contextmanager
def served(transport: str, database: Path) -> Iterator[tuple[Stack, LossyProxy]]:
    environment = {
        "BACKBURNER_MAX_BODY_BYTES": "300000",
        "BACKBURNER_PROVIDER_TRANSPORT": transport,
        "BACKBURNER_PROVIDER_DIALECT": "openai",
        "BACKBURNER_WEBHOOK_ALLOW_HTTP": "true",
        "BACKBURNER_WEBHOOK_ALLOW_NETWORKS": "127.0.0.0/8",
        "BACKBURNER_ENCRYPTION_KEYS": generate_key(),
    }
    with (
        ValkeyServer() as valkey,
        Stack(f"sqlite:///{database}", valkey.url, database.parent, environment) as stack,
        LossyProxy(int(stack.url.rpartition(":")[2])) as lossy,
    ):
        yield stack, lossy


@pytest.fixture(scope="module")
def runs(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """The run of each SDK by its name. All run at the same time."""
    runs = {sdk.name: Run(sdk) for sdk in SDKS}
    with_a_secret = {f"/{name}/webhook_of_every_end": run.answer for name, run in runs.items()}
    threads = []
    with ExitStack() as servers:
        receiver = servers.enter_context(Destination(lambda came: with_a_secret.get(came.path, lambda _: OK)(came)))
        for transport in ("plain", "stream"):
            database = tmp_path_factory.mktemp(transport) / "backburner.db"
            shutil.copyfile(sqlite_template, database)
            stack, lossy = servers.enter_context(served(transport, database))
            here = [run for run in runs.values() if run.sdk.transport == transport]
            stage = threading.Barrier(len(here))
            for run in here:
                threads.append(threading.Thread(target=run.play, args=[a_user(run, stack, lossy, receiver), stage]))
                threads[-1].start()
        for thread in threads:
            thread.join()
    return runs


def a_user(run: Run, stack: Stack, lossy: LossyProxy, receiver: Destination) -> Mapping[str, Any]:
    """Return the programs' settings. Each run has keys of its own, and so an empty world."""
    sdk = run.sdk
    database = Database(stack.database_url)
    with database.begin() as tx:
        _, api_key = create_key(tx, sdk.name, None, datetime.now(UTC))
        _, reader_key = create_key(tx, f"{sdk.name} reader", [Scope.RESPONSES_READ], datetime.now(UTC))
    database.close()
    return {
        "name": sdk.name,
        "base_url": stack.base_url,
        "api_key": api_key,
        "reader_key": reader_key,
        "lossy_url": lossy.url,
        "provider_url": stack.provider_url,
        "receiver_url": receiver.url.removesuffix("/hook"),
        "webhook_secret": run.webhook_secret,
        "strict": sdk.strict,
    }


@pytest.fixture(params=SDKS, ids=lambda sdk: sdk.name)
def sdk(request: pytest.FixtureRequest) -> Sdk:
    found: Sdk = request.param
    return found


@pytest.fixture
def facts(request: pytest.FixtureRequest, sdk: Sdk, runs: dict[str, Run]) -> dict[str, Any]:
    """Return what `sdk` saw in the scenario named by the test."""
    run = runs[sdk.name]
    name = request.function.__name__.removeprefix("test_")
    seen = run.seen.get(name)
    if seen is None:
        pytest.fail(f"openai {run.version} never finished {name}:\n{run.errors}", pytrace=False)
    if seen.get("absent") in sdk.lacks:
        pytest.skip(f"openai {run.version} has no {seen['absent']}")
    if "facts" not in seen:
        pytest.fail(seen.get("error") or f"openai {run.version} has no {seen['absent']}", pytrace=False)
    found: dict[str, Any] = seen["facts"]
    return found
