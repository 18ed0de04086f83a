"""docker-compose.yml follows the Compose Specification and its own rules. No engine runs it here."""

import json
import re
from ipaddress import ip_address

import pytest
from jsonschema import Draft202012Validator
from typer.core import TyperGroup
from typer.main import get_command

from cli.main import app as cli_app
from jobs.environment import FILE, PREFIX
from jobs.settings import Settings, variable_of
from tests.compose.composefile import DOTENV, PATH, ROOT, SERVERS, ComposeFile, MissingVariable, load, seconds
from worker.process import RECORDING_SECONDS

SETTINGS = {variable_of(name) for name in Settings.model_fields}
FOREIGN_VARIABLES = {"BROKER_URL", "CELERY_CONFIG_MODULE", "HTTPS_PROXY", "NO_PROXY"}
SECRET_FILES = {name + FILE for name in Settings.secret_variables()}
SECRETS = {f"{PREFIX}PROVIDER_API_KEY", f"{PREFIX}API_KEY", f"{PREFIX}REDIS_PASSWORD"}
IMAGES = {"POSTGRES_IMAGE": "postgres", "VALKEY_IMAGE": "redis"}
POSTGRES_CAPABILITIES = {"CHOWN", "DAC_READ_SEARCH", "FOWNER", "SETGID", "SETUID"}
DIGEST = f"@sha256:{'0' * 64}"
SET_BY_COMMAND_OR_IMAGE = {f"{PREFIX}HOST", f"{PREFIX}PORT", f"{PREFIX}DATA_DIR"}


@pytest.fixture(scope="module")
def compose() -> ComposeFile:
    return load(DOTENV)


def holders(compose: ComposeFile, variable: str) -> set[str]:
    """Return the services that have this secret, after checking that no command line contains it."""
    secret = DOTENV[variable]
    assert not any(secret in part for each in compose.services.values() for part in (*each.command, *each.healthcheck))
    return {name for name, each in compose.services.items() if secret in each.environment.values()}


def test_it_matches_the_compose_schema(compose: ComposeFile) -> None:
    schema = json.loads((ROOT / "tests/data/compose-spec.json").read_text("utf-8"))
    errors = [f"{error.json_path}: {error.message}" for error in Draft202012Validator(schema).iter_errors(compose.raw)]
    assert errors == []


@pytest.mark.parametrize("variable", DOTENV)
def test_a_missing_variable_is_reported_by_name(variable: str) -> None:
    for missing in ({}, {variable: ""}):
        without = {name: value for name, value in DOTENV.items() if name != variable} | missing
        with pytest.raises(MissingVariable, match=rf"set {variable} in \.env"):
            load(without)


def test_every_variable_is_a_setting_and_every_setting_is_passed_on(compose: ComposeFile) -> None:
    named = {name for each in compose.services.values() for name in each.raw.get("environment", {})}
    assert {name for name in named if name.startswith(PREFIX)} == SETTINGS - SET_BY_COMMAND_OR_IMAGE
    assert named - SETTINGS == {
        *("POSTGRES_USER", "POSTGRES_DB", "POSTGRES_PASSWORD"),  # the image's own
        "PGPASSWORD",  # libpq's
        *("REDIS_PASSWORD", "FLOWER_REDIS_PASSWORD"),  # the passwords of the broker's users
        "FLOWER_BASIC_AUTH",  # Flower's
    }


@pytest.mark.parametrize("variable", sorted(SETTINGS - SET_BY_COMMAND_OR_IMAGE - SECRETS))
def test_api_and_worker_get_the_same_settings(variable: str) -> None:
    compose = load(DOTENV | {variable: "from-dotenv"})
    fixed = {f"{PREFIX}DATABASE_URL", f"{PREFIX}REDIS_URL", f"{PREFIX}NAMESPACE"}
    seen = {compose.services[name].environment.get(variable) for name in ("api", "worker")}
    assert len(seen) == 1
    assert ("from-dotenv" in seen) == (variable not in fixed)


def test_a_secret_reaches_only_the_services_that_need_it(compose: ComposeFile) -> None:
    assert holders(compose, "BACKBURNER_API_KEY") == {"api"}
    assert holders(compose, "BACKBURNER_PROVIDER_API_KEY") == {"worker"}
    assert holders(compose, "BACKBURNER_ENCRYPTION_KEYS") == {"api", "worker"}
    assert holders(compose, "FLOWER_BASIC_AUTH") == {"flower"}
    assert holders(compose, "POSTGRES_PASSWORD") == {"postgres", "migrate", "api", "worker"}
    assert holders(compose, "REDIS_PASSWORD") == {"redis", "api", "worker"}
    assert holders(compose, "FLOWER_REDIS_PASSWORD") == {"redis", "flower"}


def test_the_file_itself_holds_no_secret() -> None:
    for name, each in load({name: f"@{name}@" for name in DOTENV}).services.items():
        for variable, value in each.environment.items():
            if variable in DOTENV or "PASSWORD" in variable:
                assert value.startswith("@"), f"{name} has {variable} of its own"


def test_services_wait_for_their_dependencies(compose: ComposeFile) -> None:
    for each in compose.services.values():
        for dependency, condition in each.depends_on.items():
            needed = compose.services[dependency]
            if condition == "service_healthy":
                assert needed.healthcheck, f"{each.name} waits for the health of {dependency}, which has no check"
            else:
                assert condition == "service_completed_successfully"
                assert needed.raw["restart"] == "no", f"{dependency} would never complete"
    for name in ("api", "worker"):
        assert compose.services[name].depends_on == {
            "migrate": "service_completed_successfully",
            "redis": "service_healthy",
        }
    assert compose.services["migrate"].depends_on == {"postgres": "service_healthy"}


def test_long_running_services_have_health_checks_restarts_and_bounded_logs(compose: ComposeFile) -> None:
    for name, each in compose.services.items():
        assert each.raw["logging"]["options"].keys() == {"max-size", "max-file"}
        if name != "migrate":
            assert each.healthcheck
            assert each.raw["restart"] == "unless-stopped"


def test_ports_are_published_on_loopback_only(compose: ComposeFile) -> None:
    assert {name for name, each in compose.services.items() if each.ports} == {"api", "flower"}
    for each in compose.services.values():
        for port in each.ports:
            assert ip_address(port.address).is_loopback
    chosen = load(DOTENV | {"API_ADDRESS": "192.0.2.1:80"}).services["api"].ports[0]
    assert (chosen.address, chosen.published, chosen.target) == ("192.0.2.1", 80, 8000)


def test_flower_has_no_way_to_the_database(compose: ComposeFile) -> None:
    flower = compose.services["flower"]
    assert not flower.networks & compose.services["postgres"].networks
    assert not any("postgres" in value for value in flower.environment.values())


def test_flower_reaches_only_the_broker(compose: ComposeFile) -> None:
    flower = compose.services["flower"]
    others = {name for name, each in compose.services.items() if each.networks & flower.networks}
    assert others == {"flower", "redis"}


def test_database_and_broker_have_no_way_out(compose: ComposeFile) -> None:
    for name in SERVERS:
        for network in compose.services[name].networks:
            assert compose.raw["networks"][network] == {"internal": True}
    for each in compose.services.values():
        for dependency in each.depends_on:
            if dependency in SERVERS:
                assert each.networks & compose.services[dependency].networks


def test_the_database_keeps_its_files_in_a_volume(compose: ComposeFile) -> None:
    volumes = dict(each.split(":")[::-1] for each in compose.services["postgres"].raw["volumes"])
    # since version 18 the image keeps them in a subdirectory named after the version
    assert volumes == {"/var/lib/postgresql": "postgres", "/var/run/postgresql": "postgres-socket"}
    assert compose.raw["volumes"]["postgres"] is None  # a named volume, which Docker keeps
    assert compose.raw["volumes"]["postgres-socket"]["driver_opts"]["type"] == "tmpfs"
    assert int(compose.services["postgres"].raw["image"].removeprefix("postgres:").partition("@")[0]) >= 18


def test_one_service_builds_the_image_of_all(compose: ComposeFile) -> None:
    assert [name for name, each in compose.ours.items() if "build" in each.raw] == ["migrate"]
    assert {each.raw["image"] for each in compose.ours.values()} == {"backburner:local"}
    assert {each.raw["pull_policy"] for each in compose.ours.values()} == {"never"}


def test_containers_have_no_unnecessary_privileges(compose: ComposeFile) -> None:
    for name, each in compose.services.items():
        assert each.raw["cap_drop"] == ["ALL"]
        assert set(each.raw.get("cap_add", [])) == (POSTGRES_CAPABILITIES if name == "postgres" else set())
        assert each.raw["read_only"] is True
        assert each.raw["security_opt"] == ["no-new-privileges:true"]
        assert "privileged" not in each.raw


def test_every_service_has_limits_of_memory_and_processes(compose: ComposeFile) -> None:
    bounds = {name: (each.raw["mem_limit"], each.raw["pids_limit"]) for name, each in compose.services.items()}
    assert all(re.fullmatch(r"[1-9][0-9]*g", memory) and int(pids) > 0 for memory, pids in bounds.values())
    chosen = {f"{name.upper()}_MEMORY": f"{place}00m" for place, name in enumerate(bounds, 1)}
    chosen |= {f"{name.upper()}_PIDS": f"{place}000" for place, name in enumerate(bounds, 1)}
    for place, each in enumerate(load(DOTENV | chosen).services.values(), 1):
        assert (each.raw["mem_limit"], each.raw["pids_limit"]) == (f"{place}00m", f"{place}000")


def test_the_process_limit_of_the_database_allows_all_its_connections(compose: ComposeFile) -> None:
    postgres = compose.services["postgres"]
    (connections,) = re.findall(r"max_connections=(\d+)", " ".join(postgres.command))
    assert int(postgres.raw["pids_limit"]) > 2 * int(connections)


@pytest.mark.parametrize(("variable", "service"), IMAGES.items())
def test_an_image_is_pinned_and_its_variable_pins_another(variable: str, service: str, compose: ComposeFile) -> None:
    tag, _, digest = compose.services[service].raw["image"].partition("@sha256:")
    assert re.fullmatch(r"[0-9a-f]{64}", digest)
    pinned = tag + DIGEST
    assert load(DOTENV | {variable: pinned}).services[service].raw["image"] == pinned


def test_the_base_image_is_pinned_and_its_variable_pins_another(compose: ComposeFile) -> None:
    given = compose.services["migrate"].raw["build"]["args"]
    assert f"ARG PYTHON_IMAGE={given['PYTHON_IMAGE']}\n" in (ROOT / "Dockerfile").read_text("utf-8")
    tag, _, digest = given["PYTHON_IMAGE"].partition("@sha256:")
    assert re.fullmatch(r"[0-9a-f]{64}", digest)
    pinned = tag + DIGEST
    build = load(DOTENV | {"PYTHON_IMAGE": pinned}).services["migrate"].raw["build"]
    assert build["args"] == {"PYTHON_IMAGE": pinned}


@pytest.mark.parametrize(
    "dotenv", [{}, {"BACKBURNER_SHUTDOWN_GRACE_SECONDS": "7200", "WORKER_STOP_GRACE_PERIOD": "2h1m"}]
)
def test_a_stopping_worker_is_killed_only_after_its_grace_period(dotenv: dict[str, str]) -> None:
    worker = load(DOTENV | dotenv).services["worker"]
    grace = float(worker.environment["BACKBURNER_SHUTDOWN_GRACE_SECONDS"])
    assert seconds(worker.raw["stop_grace_period"]) >= grace + 2 * RECORDING_SECONDS


def test_every_call_may_end_when_a_worker_is_stopped(compose: ComposeFile) -> None:
    grace = float(compose.services["worker"].environment["BACKBURNER_SHUTDOWN_GRACE_SECONDS"])
    assert grace >= Settings.model_fields["call_deadline_seconds"].default


def test_the_file_documents_its_dotenv() -> None:
    head = PATH.read_text("utf-8").split("\nname:")[0]
    assert all(f"#   {variable}=" in head for variable in DOTENV)


def test_the_tests_named_in_the_runbook_exist() -> None:
    named = re.findall(r"`(tests/[^`]+)`", (ROOT / "docs/operations.md").read_text("utf-8"))
    assert named
    assert [each for each in named if not (ROOT / each).is_file()] == []


def test_the_runbook_names_only_existing_variables_commands_and_services(compose: ComposeFile) -> None:
    runbook = (ROOT / "docs/operations.md").read_text("utf-8")
    code = " ".join(re.findall(r"```.*?```|`[^`]+`", runbook, re.DOTALL))
    variables = set(re.findall(r"\b[A-Z]+(?:_[A-Z]+)+\b", code))
    assert {name for name in variables if name.startswith(PREFIX)} <= SETTINGS | SECRET_FILES
    others = {name for name in variables if not name.startswith(PREFIX)} - FOREIGN_VARIABLES
    assert all(f"${{{name}:" in PATH.read_text("utf-8") for name in others)
    command = get_command(cli_app)
    assert isinstance(command, TyperGroup)
    assert set(re.findall(r"(?:^|\s|`)backburner ([a-z]+)", code)) <= command.commands.keys()
    services = set(re.findall(r"docker compose (?:exec|run|logs|kill)(?: -\S+(?: QUIT)?)* ([a-z]+)", code))
    assert services <= compose.services.keys()
    for link in re.findall(r"\]\((?!#)([^)]+)\)", runbook):
        assert (ROOT / "docs" / link).exists(), link
