"""`backburner up` with the real Valkey, simulator, migrations, API and worker."""

import json
import re
import signal
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from jobs.encryption import generate_key
from jobs.lifecycle import Status
from jobs.store.database import Database
from jobs.store.responses import get_job
from tests.cli.running import COMMAND, Running, environment, run, still_running
from tests.support.waiting import await_until

PARTS = ("valkey", "simulator", "api", "worker")


class Up(Running):
    """A running `backburner up` in the directory `home`."""

    def __init__(self, home: Path, **settings: str) -> None:
        super().__init__((*COMMAND, "up"), home, environment(port="0", **settings))
        self.home = home

    def wait_until_ready(self) -> list[psutil.Process]:
        """Wait for the ready message; return the children that run by then."""
        self.base_url = self.match(r"base URL +(http://127\.0\.0\.1:\d+/v1)")[1]
        self.match(r"^print\(client")
        return self.children()

    def client(self, *arguments: str) -> str:
        """Run a client command against it; return what it prints on stdout."""
        done = run(*arguments, cwd=self.home, base_url=self.base_url)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def status(self, response_id: str) -> str:
        return str(json.loads(self.client("get", response_id, "--json"))["status"])


@contextmanager
def up(home: Path, **settings: str) -> Iterator[Up]:
    with Up(home, **settings) as running:
        yield running


def part(children: list[psutil.Process], word: str) -> psutil.Process:
    return next(child for child in children if any(word in argument for argument in child.cmdline()))


def test_a_first_run_answers_and_ctrl_c_stops_everything(tmp_path: Path) -> None:
    with up(tmp_path) as running:
        children = running.wait_until_ready()
        data = tmp_path / ".backburner"

        assert running.output.count("NO PROVIDER KEY") == 1
        assert "Hello" in running.client("submit", "--wait", "[[sim: full delay=0]] Hello")
        assert stat.S_IMODE(data.stat().st_mode) == 0o700
        assert {stat.S_IMODE(file.stat().st_mode) for file in data.rglob("*") if file.is_file()} == {0o600}

        key = (data / "api_key").read_text()
        assert re.fullmatch(r"bb_[\w-]{32,}", key)
        assert f'open("{data.name}/api_key")' in running.output
        configuration = (data / "valkey/valkey.conf").read_text().splitlines()
        password = next(line.split()[1] for line in configuration if line.startswith("requirepass "))
        seen = running.output + " ".join(argument for child in children for argument in child.cmdline())
        assert key not in seen
        assert password not in seen

        second = run("up", cwd=tmp_path, port="0")
        assert (second.returncode, second.stderr.count("\n")) == (1, 1)
        assert f"pid {running.popen.pid}" in second.stderr

        running.signal(signal.SIGINT)
        assert running.exit_status() == 0
        assert not still_running(children)
        assert "backburner: stopping" in running.output


def test_killed_parts_are_restarted_and_jobs_run_again(tmp_path: Path) -> None:
    with up(tmp_path) as running:
        children = running.wait_until_ready()
        for child in [part(children, word) for word in ("valkey-server", "simulator", "uvicorn", "celery")]:
            child.kill()
        for name in PARTS:
            running.match(rf"{name} was killed by SIGKILL; starting it again in 0\.5 s")
        await_until(lambda: ready(running.base_url), 30, lambda: f"not ready again:\n{running.output}")

        assert "again" in running.client("submit", "--wait", "[[sim: full delay=0]] Once again")
        assert len(running.children()) == len(PARTS)


def ready(base_url: str) -> bool:
    try:
        return httpx.get(base_url.replace("/v1", "/readyz")).status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.long
def test_up_continues_the_jobs_of_a_killed_up(tmp_path: Path) -> None:
    settings = {"worker_timeout_seconds": "3", "retry_base_seconds": "0"}
    with up(tmp_path, **settings) as killed:
        children = killed.wait_until_ready()
        running = killed.client("submit", "[[sim: full delay=10]] Hello")
        await_until(lambda: killed.status(running) == "in_progress", 10, "the call never began")
        killed.signal(signal.SIGKILL)
        killed.exit_status()
        await_until(lambda: not still_running(children), 5, "children outlived a killed supervisor")

    with up(tmp_path, **settings) as following:
        following.wait_until_ready()
        assert "Hello" in following.client("wait", running)


@pytest.mark.long
def test_a_second_ctrl_c_hands_calls_back_at_once(tmp_path: Path) -> None:
    with up(tmp_path, shutdown_grace_seconds="300") as running:
        children = running.wait_until_ready()
        job = running.client("submit", "[[sim: full delay=600]] Hello")
        await_until(lambda: running.status(job) == "in_progress", 10, "the call never began")

        running.signal(signal.SIGINT)
        running.match(r"stopping: 1 call may finish, up to 300 s; Ctrl-C again to hand them back now")
        assert running.status(job) == "in_progress"
        running.signal(signal.SIGINT)
        assert running.exit_status(20) == 0
        assert not still_running(children)
    database = Database(f"sqlite:///{tmp_path / '.backburner/backburner.db'}")
    with database.read() as tx:
        assert get_job(tx, job).status is Status.QUEUED
    database.close()


SECRETS = {
    "api": {"canary-api-key-of-ours", "canary-encryption", "redis://"},
    "worker": {"canary-provider-key", "canary-url-password", "canary-encryption", "redis://"},
    "valkey": set[str](),
}


@pytest.mark.long
def test_each_process_gets_only_its_own_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encryption_key = generate_key()
    (tmp_path / ".env").write_text(
        "BACKBURNER_PROVIDER_API_KEY=canary-provider-key\nbackburner_webhook_concurrency=3\n"
    )
    for name in ("POSTGRES_PASSWORD", "OPENAI_API_KEY", "SOME_TOKEN", "AIMLAPI_API_KEY"):
        monkeypatch.setenv(name, "canary-of-others")
    settings = {
        "api_key": "canary-api-key-of-ours",
        "provider_base_url": "http://me:canary-url-password@127.0.0.1:9/v1",
        "encryption_keys": encryption_key,
    }
    with up(tmp_path, **settings) as running:
        children = running.wait_until_ready()
        environments = {name: environ(part(children, word)) for name, word in WORDS.items()}
        asked = {"model": "openai/o3-pro", "input": "Hello", "background": True}
        headers = {"authorization": "Bearer canary-api-key-of-ours"}
        assert httpx.post(f"{running.base_url}/responses", json=asked, headers=headers).status_code == 200
    secrets = ("canary-provider-key", "canary-url-password", "canary-api-key-of-ours", encryption_key, "redis://")
    for name, text in environments.items():
        known = {secret.replace(encryption_key, "canary-encryption") for secret in secrets if secret in text}
        assert (name, known) == (name, SECRETS[name])
        assert "canary-of-others" not in text
        # Valkey overwrites its environment with its process title
        assert name == "valkey" or "WEBHOOK_CONCURRENCY=3" in text, "other settings in .env reach every process"


WORDS = {"api": "uvicorn", "worker": "celery", "valkey": "valkey-server"}


def environ(process: psutil.Process) -> str:
    """Return the content of `/proc/PID/environ`."""
    return Path(f"/proc/{process.pid}/environ").read_text()


@pytest.mark.long
def test_no_password_in_a_url_is_shown(tmp_path: Path) -> None:
    url = "http://canary-user:canary-password@127.0.0.1:9/v1?key=canary-parameter"
    settings = {"provider_base_url": url, "provider_api_key": "canary-key"}
    with up(tmp_path, **settings) as running:
        running.wait_until_ready()
        assert re.search(r"provider +http://127\.0\.0\.1:9/v1$", running.output, re.MULTILINE)
        job = running.client("submit", "Hello")
        running.match(job)
        doctor = run("doctor", cwd=tmp_path, **settings)
        answered = httpx.get(running.base_url.replace("/v1", "/readyz")).text
        shown = (running.output, doctor.stdout, doctor.stderr, answered, running.client("get", job, "--json"))
        assert [text for text in shown if "canary" in text] == []
        assert "127.0.0.1:9" in doctor.stdout
