"""The OpenAPI document is true: a request that it allows causes no internal error, and every answer matches it."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import Case, CheckContext, GenerationMode, Response
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from api.main import create_app
from jobs.lifecycle import Status
from jobs.store.database import database_now
from jobs.store.workers import register
from tests.api.world import MODEL, FakeWorker, Json, Server, Tenant, settings_for

pytestmark = pytest.mark.one_database

NOWHERE = settings_for("postgresql://127.0.0.1:1/nothing", "redis://127.0.0.1:1/0")  # the document needs no connection
EXAMPLES = 30
FIND = settings(
    max_examples=EXAMPLES,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@cache
def document() -> Json:
    written: Json = json.loads(json.dumps(create_app(NOWHERE).openapi()))
    return written


def operations() -> Iterator[tuple[str, str]]:
    for path, methods in document()["paths"].items():
        for method in methods:
            yield method.upper(), path


def takes_input(method: str, path: str) -> bool:
    operation = document()["paths"][path][method.lower()]
    return bool(operation.get("parameters") or operation.get("requestBody"))


POSITIVE, NEGATIVE = GenerationMode.POSITIVE, GenerationMode.NEGATIVE
OTHERS = [
    (*each, mode)
    for each in operations()
    for mode in ((POSITIVE, NEGATIVE) if takes_input(*each) else (POSITIVE,))
    if each
    not in {("POST", "/v1/responses"), ("POST", "/v1/responses/input_tokens")}  # their large body is tested separately
]


def named_status(_context: CheckContext, response: Response, case: Case[Any]) -> None:
    """Check more strictly than OpenAPI: a range such as 4XX does not cover a status."""
    assert str(response.status_code) in case.operation.definition.raw["responses"], response.status_code


CHECKS: list[Any] = [
    not_a_server_error,
    status_code_conformance,
    named_status,
    content_type_conformance,
    response_schema_conformance,
]


@contextmanager
def finishing(tenant: Tenant, worker: FakeWorker) -> Iterator[None]:
    """End all open jobs. Without a worker a held request would wait for ever."""
    enough = threading.Event()

    def finish() -> None:
        while not enough.wait(0.01):
            for each in tenant.page(status="queued", limit=100)["data"]:
                worker.bring_to(
                    Status.COMPLETED if each["backburner"]["next_attempt_at"] is None else Status.CANCELLED, each["id"]
                )

    with ThreadPoolExecutor(1) as pool:
        finisher = pool.submit(finish)
        yield
        enough.set()
        finisher.result()


def probe(server: Server, tenant: Tenant, case: Case[Any]) -> Response:
    headers = {"authorization": f"Bearer {tenant.secret}"}
    return case.call_and_validate(server.url, headers=headers, checks=CHECKS, timeout=20)


def strategy(method: str, path: str, mode: GenerationMode) -> st.SearchStrategy[Case[Any]]:
    operation = schemathesis.openapi.from_dict(document())[path][method]
    cases: st.SearchStrategy[Case[Any]] = operation.as_strategy(generation_mode=mode)
    return cases


@pytest.mark.parametrize("mode", [POSITIVE, NEGATIVE])
def test_submitting(server: Server, tenant: Tenant, worker: FakeWorker, mode: GenerationMode) -> None:
    taken = 0

    @FIND
    @given(case=strategy("POST", "/v1/responses", mode))
    def examine(case: Case[Any]) -> None:
        nonlocal taken
        if isinstance(case.body, dict) and isinstance(case.body.get("model"), str):
            case.body["model"] = MODEL  # other models would be refused at once
            if not case.body.get("input"):
                case.body["input"] = "Hello"
        answer = probe(server, tenant, case)
        taken += answer.status_code == 200

    with finishing(tenant, worker):
        examine()
    if mode is POSITIVE:
        assert taken > 5


@pytest.mark.parametrize(("method", "path", "mode"), OTHERS, ids=[" ".join(each) for each in OTHERS])
def test_everything_else(
    server: Server, tenant: Tenant, worker: FakeWorker, method: str, path: str, mode: GenerationMode
) -> None:
    if path == "/readyz":  # it answers 503 without a worker
        with server.database.begin() as tx:
            register(tx, "host", 4711, 1, database_now(tx))

    @FIND
    @given(case=strategy(method, path, mode), status=st.sampled_from([None, *Status]))
    def examine(case: Case[Any], status: Status | None) -> None:
        if case.query and "stream" in case.query:  # a stream lasts until the response ends
            status = Status.CANCELLED if status in {None, Status.QUEUED, Status.IN_PROGRESS} else status
        if "response_id" in case.path_parameters and status is not None:
            case.path_parameters["response_id"] = tenant.submit()["id"]
            worker.bring_to(status, case.path_parameters["response_id"])
        if case.query and isinstance(case.query.get("wait"), int | float) and 0 <= case.query["wait"] <= 300:
            case.query["wait"] = 0.01
        probe(server, tenant, case)

    examine()


def test_the_document_names_every_route_and_how_to_call_it() -> None:
    assert {f"{method} {path}" for method, path in operations()} == {
        "POST /v1/responses",
        "GET /v1/responses",
        "GET /v1/responses/{response_id}",
        "DELETE /v1/responses/{response_id}",
        "POST /v1/responses/{response_id}/cancel",
        "POST /v1/responses/{response_id}/retry",
        "GET /v1/responses/{response_id}/attempts",
        "GET /v1/responses/{response_id}/input_items",
        "POST /v1/responses/input_tokens",
        "GET /v1/models",
        "GET /v1/models/{model_id}",
        "GET /v1/usage",
        "POST /v1/webhook_endpoints",
        "GET /v1/webhook_endpoints",
        "GET /v1/webhook_endpoints/{webhook_endpoint_id}",
        "POST /v1/webhook_endpoints/{webhook_endpoint_id}",
        "DELETE /v1/webhook_endpoints/{webhook_endpoint_id}",
        "POST /v1/webhook_endpoints/{webhook_endpoint_id}/rotate_secret",
        "POST /v1/webhook_endpoints/{webhook_endpoint_id}/test",
        "GET /v1/webhook_endpoints/{webhook_endpoint_id}/deliveries",
        "POST /v1/webhook_endpoints/{webhook_endpoint_id}/recover",
        "POST /v1/webhook_deliveries/{webhook_delivery_id}/redeliver",
        "GET /v1/webhook_event_types",
        "GET /healthz",
        "GET /readyz",
        "GET /metrics",
    }
    for method, path in operations():
        operation = document()["paths"][path][method.lower()]
        assert operation["summary"]
        assert operation["description"]
        assert ("security" in operation) == path.startswith("/v1")
    assert "HTTPValidationError" not in document()["components"]["schemas"]  # FastAPI's own error shape is never sent


def test_the_page_shows_the_document(server: Server) -> None:
    with server.client() as client:
        page = client.get("/docs")
        assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
        assert "/openapi.json" in page.text
        assert client.get("/openapi.json").json() == document()
