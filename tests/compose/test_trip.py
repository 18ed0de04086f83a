"""The services of docker-compose.yml answer the official SDK, each started by its own command.

PostgreSQL and Valkey are real, the provider is the simulator, and only the `.env` of `DOTENV` is set.
"""

import html
import json
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any
from urllib.parse import quote

import httpx
import psycopg
import pytest
from openai import NotFoundError, OpenAI
from openai.types.responses import Response
from psycopg import sql
from tornado.routing import URLSpec
from tornado.web import RequestHandler

from tests.compose.broker import ComposeValkey
from tests.compose.composefile import DOTENV, ROOT, load
from tests.compose.containers import Container, Stack, build_image
from tests.support.postgres import PostgresServer
from tests.support.server import HOST
from tests.support.stack import Process
from tests.support.waiting import await_until

pytestmark = pytest.mark.xdist_group("compose")  # the tests share one stack

RUNBOOK = ROOT / "docs/operations.md"
MODEL = "openai/o3-pro"
QUESTION = "a-question-that-nobody-else-may-see"
ANSWER = "an-answer-that-nobody-else-may-see"
SCRIPT = f'full delay=0.2 tokens=321 reasoning-tokens=200 input-tokens=123 text="{ANSWER}"'
OPEN_IN_FLOWER = {
    "Healthcheck",
    "LoginHandler",
    "LogoutHandler",
    "NotFoundErrorHandler",
    "StaticFileHandler",
}  # these pages show no data
NO_CHANGE = {"TasksDataTable", "NotFoundErrorHandler"}  # these accept POST and change nothing
TERMINATED = {0, -signal.SIGTERM}  # uvicorn shuts down and then ends by the signal that it received


@dataclass(frozen=True)
class World:
    """The running stack and its provider."""

    stack: Stack
    provider_url: str
    postgres: PostgresServer
    valkey: ComposeValkey

    @property
    def api(self) -> Container:
        return self.stack["api"]

    def openai(self) -> OpenAI:
        """Return the official SDK with only `base_url` and `api_key` set."""
        return OpenAI(base_url=f"{self.api.url}/v1", api_key=DOTENV["BACKBURNER_API_KEY"])

    def flower(self) -> httpx.Client:
        user, password = DOTENV["FLOWER_BASIC_AUTH"].split(":")
        return httpx.Client(base_url=self.stack["flower"].url, auth=(user, password), timeout=30)

    def worker_name(self) -> str:
        """Wait until Flower has received the worker's events; return its name there."""

        def online() -> list[str]:
            with self.flower() as http:
                workers: list[dict[str, Any]] = http.get("/workers", params={"json": "1"}).json()["data"]
                return [each["hostname"] for each in workers if each["status"]]

        return await_until(online, 30, self.stack.logs)[0]

    def create(self, script: str = SCRIPT) -> Response:
        return self.openai().responses.create(model=MODEL, input=f"[[sim: {script}]] {QUESTION}", background=True)

    def poll(self, response_id: str) -> Response:
        client = self.openai()

        def ended() -> Response | None:
            current = client.responses.retrieve(response_id)
            return None if current.status in {"queued", "in_progress"} else current

        return await_until(ended, 30, self.stack.logs)

    def calls(self, response_id: str) -> list[dict[str, Any]]:
        query = {"client_request_id_prefix": response_id}
        calls: list[dict[str, Any]] = httpx.get(f"{self.provider_url}/_calls", params=query).json()["calls"]
        return calls


def set_up_as_image_does(server: PostgresServer) -> None:
    """Create the role, password and database of the official image, and require the password."""
    with psycopg.connect(server.url, autocommit=True) as connection:
        password = sql.Literal(DOTENV["POSTGRES_PASSWORD"])
        connection.execute(sql.SQL("CREATE ROLE backburner SUPERUSER LOGIN PASSWORD {}").format(password))
        connection.execute("CREATE DATABASE backburner OWNER backburner")
        rules = server.data / "pg_hba.conf"
        rules.write_text(f"host all backburner all scram-sha-256\n{rules.read_text('utf-8')}", "utf-8")
        connection.execute("SELECT pg_reload_conf()")


@pytest.fixture(scope="module")
def world_of_module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("compose")
    image = build_image(directory)
    simulator = Process("simulator", [sys.executable, "-m", "simulator", "--port", "0"], {})
    try:
        provider_url = simulator.match(r"listening on (http://\S+)")[1]
        compose = load(DOTENV | {"BACKBURNER_PROVIDER_BASE_URL": f"{provider_url}/v1"})
        with PostgresServer() as postgres, ComposeValkey(compose.services["redis"]) as valkey:
            set_up_as_image_does(postgres)
            addresses = {"postgres:5432": f"{HOST}:{postgres.port}", "redis:6379": f"{HOST}:{valkey.port}"}
            with Stack(compose, image, directory, addresses) as stack:
                yield World(stack, provider_url, postgres, valkey)
    finally:
        simulator.stop()


@pytest.fixture
def world(world_of_module: World) -> World:
    """Start whatever a previous test has stopped."""
    world_of_module.stack.start()
    return world_of_module


@pytest.fixture(scope="module")
def answered(world_of_module: World) -> Response:
    """Return a completed response whose events Flower has received."""
    world_of_module.stack.start()
    world_of_module.worker_name()
    return world_of_module.poll(world_of_module.create().id)


def flower_pages(world: World, response_id: str) -> dict[str, httpx.Response]:
    """Return every page of Flower, with those of our task and its worker."""
    worker = world.worker_name()
    table = "draw=1&start=0&length=100&order[0][column]=0&columns[0][data]=uuid"
    paths = [
        *(
            "/",
            "/workers",
            f"/worker/{worker}",
            "/tasks",
            f"/tasks/datatable?{table}",
            f"/task/{response_id}",
            "/broker",
        ),
        *("/api/workers?refresh=1", "/api/tasks", "/api/task/types", f"/api/task/info/{response_id}"),
        *("/api/queues/length", "/metrics"),
    ]
    with world.flower() as http:
        return {path: http.get(path).raise_for_status() for path in paths}


def changing_routes() -> Iterator[tuple[str, str]]:
    """Yield the method and path pattern of every route of the installed Flower that could change something."""
    for route in import_module("flower.urls").handlers:
        spec = route if isinstance(route, URLSpec) else URLSpec(*route)
        for method in ("post", "put", "patch", "delete"):
            implemented = getattr(spec.handler_class, method) is not getattr(RequestHandler, method)
            if implemented and spec.handler_class.__name__ not in NO_CHANGE:
                yield method.upper(), spec.regex.pattern.rstrip("$")


def test_the_sdk_submits_polls_and_reads_usage(world: World) -> None:
    created = world.create()
    assert created.status in {"queued", "in_progress"}

    done = world.poll(created.id)

    assert done.status == "completed"
    assert done.output_text == ANSWER
    assert done.usage is not None
    assert (done.usage.input_tokens, done.usage.output_tokens, done.usage.total_tokens) == (123, 321, 444)
    assert done.usage.output_tokens_details.reasoning_tokens == 200
    (call,) = world.calls(done.id)
    assert call["billed"]


def test_the_stack_is_ready(world: World) -> None:
    answer = httpx.get(f"{world.api.url}/readyz")
    provider_limit = {"limit": "active", "reason": None, "state": None, "max_calls": None}
    assert answer.status_code == 200
    assert answer.json() == {
        "status": "ok",
        "missing": [],
        "reasons": {},
        "warnings": [],
        "waiting": None,
        "provider": provider_limit,
    }


def test_the_metrics_are_those_in_the_runbook(world: World) -> None:
    served = set(re.findall(r"^# TYPE (\w+)", httpx.get(f"{world.api.url}/metrics").text, re.MULTILINE))
    assert served == set(re.findall(r"`(backburner_\w+)", RUNBOOK.read_text("utf-8")))


def test_an_operator_runs_backburner_in_the_containers(world: World) -> None:
    here = {"BACKBURNER_BASE_URL": f"{world.api.url}/v1"}  # in a container the API would have the default port
    submitted = world.api.run("backburner", "submit", "--wait", f"[[sim: {SCRIPT}]] {QUESTION}", **here)
    assert submitted.returncode == 0, submitted.stdout
    assert ANSWER in submitted.stdout

    made = world.api.run("backburner", "keys", "create", "second", "--json")
    assert made.returncode == 0, made.stdout
    key = json.loads(made.stdout)["key"]
    assert OpenAI(base_url=f"{world.api.url}/v1", api_key=key).models.list().data[0].id == MODEL

    examined = world.stack["worker"].run("backburner", "doctor")
    assert examined.returncode == 0, examined.stdout


def test_flower_names_a_task_after_its_response(world: World, answered: Response) -> None:
    with world.flower() as http:

        def succeeded() -> dict[str, Any] | None:
            tasks: dict[str, dict[str, Any]] = http.get("/api/tasks").raise_for_status().json()
            task = tasks.get(answered.id, {})
            return task if task.get("state") == "SUCCESS" else None

        task = await_until(succeeded, 10, world.stack.logs)
    assert task["name"] == "backburner.execute"
    assert answered.id in task["args"]


def test_every_page_of_flower_requires_the_password(world: World) -> None:
    user, password = DOTENV["FLOWER_BASIC_AUTH"].split(":")
    paths = [pattern.replace("(.+)", "x").replace("(.*)", "x") for pattern in pages_of_flower()]
    assert {"/", "/metrics", "/api/tasks", "/api/workers", "/tasks/datatable"} <= set(paths)
    for path in paths:
        for auth in (None, (user, "wrong"), ("", ""), ("other", password)):
            answer = httpx.get(world.stack["flower"].url + path, auth=auth)
            assert (answer.status_code, answer.text) in ((401, ""), (401, "Access denied")), (path, auth)


def pages_of_flower() -> Iterator[str]:
    """Yield the path patterns of all pages of the installed Flower."""
    for route in import_module("flower.urls").handlers:
        spec = route if isinstance(route, URLSpec) else URLSpec(*route)
        readable = spec.handler_class.get is not RequestHandler.get
        if readable and spec.handler_class.__name__ not in OPEN_IN_FLOWER:
            yield spec.regex.pattern.rstrip("$")


@pytest.mark.parametrize(
    "given",
    [pytest.param(each, marks=pytest.mark.long) for each in ("nocolon", ":", "user:", ":password")]
    + ["user:password,other"],
)
def test_flower_does_not_start_without_a_user_and_a_password(world: World, given: str) -> None:
    flower = world.stack["flower"]
    command = [*flower.service.command, "--port=0"]
    refused = flower.run(*command, FLOWER_BASIC_AUTH=given)
    assert refused.returncode != 0
    assert "FLOWER_BASIC_AUTH: expected user:password, without commas" in refused.stdout


def test_flower_refuses_every_change(world: World, answered: Response) -> None:
    worker = world.worker_name()
    routes = list(changing_routes())
    assert len(routes) >= 14
    with world.flower() as http:
        for method, pattern in routes:
            subject = worker if "/worker/" in pattern else answered.id
            refused = http.request(method, pattern.replace("(.+)", subject), json={"args": [answered.id]})
            assert (refused.status_code, refused.text) == (403, "Read only mode is enabled"), (method, pattern)
    assert world.stack["worker"].is_healthy()


def test_no_prompt_answer_or_secret_is_in_flower_or_a_log(world: World, answered: Response) -> None:
    private = {QUESTION, ANSWER, *(value for name, value in DOTENV.items() if name != "FLOWER_BASIC_AUTH")}
    private |= {html.escape(each) for each in private} | {quote(each, safe="") for each in private}
    private.add(DOTENV["FLOWER_BASIC_AUTH"].split(":")[1])
    pages = {path: page.text for path, page in flower_pages(world, answered.id).items()}
    logs = {name: each.output for name, each in world.stack.containers.items()}
    assert answered.id in pages["/api/tasks"]
    assert answered.id in logs["worker"]
    for where, text in (pages | logs).items():
        assert not [secret for secret in private if secret in text], where


def test_the_broker_grants_every_service_what_it_needs(world: World, answered: Response) -> None:
    flower_pages(world, answered.id)
    for name, container in world.stack.containers.items():
        assert "permissions" not in container.output, name


@pytest.mark.long
def test_a_remote_command_cannot_stop_a_worker(world: World) -> None:
    refused = world.stack["worker"].run("celery", "-A", "worker.main", "control", "--timeout", "10", "shutdown")
    assert "not allowed: Backburner's workers take no commands by remote control" in refused.stdout
    assert world.stack["worker"].is_healthy()


@pytest.mark.long
def test_a_job_handed_back_by_a_forced_stop_is_in_the_backup(world: World, answered: Response) -> None:
    commands = re.findall(r"exec -T postgres (pg_\w+) (.+) [<>] backburner\.dump", RUNBOOK.read_text("utf-8"))
    assert [program for program, _ in commands] == ["pg_dump", "pg_restore"]
    backup, restore = ((program, shlex.split(arguments)) for program, arguments in commands)
    worker, client = world.stack["worker"], world.openai()
    slow = world.create(f"full delay=60, then {SCRIPT}")
    await_until(lambda: world.calls(slow.id), 10, world.stack.logs)

    start = len(worker.output)
    worker.signal(signal.SIGTERM)
    await_until(lambda: '"draining"' in worker.output[start:], 10, world.stack.logs)
    assert worker.stop(signal.SIGQUIT) == 0
    assert client.responses.retrieve(slow.id).status == "queued"

    dump = run_in_postgres(world, *backup)
    later = world.create()
    world.api.stop()
    run_in_postgres(world, *restore, given=dump)
    world.stack.start()

    assert client.responses.retrieve(answered.id).output_text == ANSWER
    with pytest.raises(NotFoundError):
        client.responses.retrieve(later.id)
    assert world.poll(slow.id).output_text == ANSWER
    assert len(world.calls(slow.id)) == 2


@pytest.mark.long
def test_a_stop_lets_a_call_end(world: World) -> None:
    slow = world.create(SCRIPT.replace("delay=0.2", "delay=2"))
    await_until(lambda: world.calls(slow.id), 10, world.stack.logs)

    assert world.stack["worker"].stop() == 0
    assert world.openai().responses.retrieve(slow.id).output_text == ANSWER
    assert len(world.calls(slow.id)) == 1
    for name in ("api", "flower"):
        assert world.stack[name].stop() in TERMINATED


def run_in_postgres(world: World, program: str, arguments: Sequence[str], given: bytes = b"") -> bytes:
    """Run one of PostgreSQL's programs as in its container, where the server is local."""
    local = {"PGHOST": HOST, "PGPORT": str(world.postgres.port), "PGPASSWORD": DOTENV["POSTGRES_PASSWORD"]}
    path = world.postgres._programs / program
    done = subprocess.run([path, *arguments], env=local, input=given, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
