"""A served API, its tenants, and a fake worker that changes rows as a worker does."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import uvicorn
from fastapi import FastAPI

from api.dependencies import AppState
from api.http_protocol import Protocol
from api.main import create_app
from jobs.errors import ERROR_CODES, ErrorKind, Failure
from jobs.job import Answer, Attempt, CallReport, Cost, CostSource, Job, Outcome, Usage
from jobs.lifecycle import Status, Verb
from jobs.settings import Settings
from jobs.store.api_keys import Scope, create_key
from jobs.store.attempts import attempts_of, save_answers
from jobs.store.database import Database
from jobs.store.responses import get_job
from jobs.store.workers import register
from tests.support.names import NAMESPACE
from tests.support.records import claim_one, end_one, move_one, pending_deliveries
from tests.support.waiting import await_until

MODEL = "openai/o3-pro"
USAGE = Usage(input_tokens=12, output_tokens=80, total_tokens=92, cached_tokens=4, reasoning_tokens=64)
COST_MICROUSD = 1_234_567
TEXT = "The answer is 42."

Json = dict[str, Any]


def settings_for(database_url: str, redis_url: str, **overrides: Any) -> Settings:
    """Return settings that ignore environment files."""
    options = {
        "database_url": database_url,
        "redis_url": redis_url,
        "provider_ids": "allow",
        "namespace": NAMESPACE,
        **overrides,
    }
    return Settings(_env_file=None, **options)


@dataclass(frozen=True)
class Server:
    """A served API: its address and its parts."""

    url: str
    app: FastAPI
    settings: Settings
    uvicorn: uvicorn.Server

    @property
    def state(self) -> AppState:
        state: AppState = self.app.state.backburner
        return state

    @property
    def database(self) -> Database:
        return self.state.database

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def waiting(self, job_id: str) -> bool:
        """Return whether a request in this process waits for the response."""
        return job_id in self.state.listener._waiting

    @property
    def creates_behind(self) -> int:
        """Number of creates in this process that wait for the running transaction to end."""
        return len(self.state.submit_batcher.writes._waiting)

    @property
    def is_creating(self) -> bool:
        """True while a transaction with creates runs in this process."""
        return self.state.submit_batcher.writes.is_busy

    def stop(self) -> None:
        """Ask the server to stop, as a SIGTERM does."""
        self.uvicorn.should_exit = True

    def client(self, secret: str | None = None) -> httpx.Client:
        headers = {} if secret is None else {"authorization": f"Bearer {secret}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=30, trust_env=False)


@contextmanager
def serve(settings: Settings) -> Iterator[Server]:
    """Serve the API over real sockets, in a thread of this process."""
    app = create_app(settings)
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, http=Protocol, log_config=None, access_log=False, timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    served = Server(f"http://127.0.0.1:{listener.getsockname()[1]}", app, settings, server)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="api")
    thread.start()
    try:
        await_until(lambda: server.started or not thread.is_alive(), 10, "the API never started")
        assert server.started, "the API did not start"
        yield served
    finally:
        served.stop()
        thread.join()
        listener.close()


@dataclass(frozen=True)
class Tenant:
    """One API key and a client that uses it; paths begin with `/v1`."""

    id: str
    secret: str
    http: httpx.Client

    def submit(self, input_: Any = "Hello", /, **fields: Any) -> Json:
        """Submit a background response and return it."""
        body = {"model": MODEL, "input": input_, "background": True, **fields}
        answer = self.http.post("/v1/responses", json=body)
        assert answer.status_code == 200, answer.text
        accepted: Json = answer.json()
        return accepted

    def get(self, job_id: str, **query: Any) -> Json:
        answer = self.http.get(f"/v1/responses/{job_id}", params=query)
        assert answer.status_code == 200, answer.text
        found: Json = answer.json()
        return found

    def page(self, **query: Any) -> Json:
        answer = self.http.get("/v1/responses", params=query)
        assert answer.status_code == 200, answer.text
        page: Json = answer.json()
        return page

    def ids(self, **query: Any) -> list[str]:
        return [each["id"] for each in self.page(**query)["data"]]

    def only_id(self) -> str:
        """Wait for this tenant's only response and return its id."""
        return await_until(lambda: next(iter(self.ids()), None), 5, "no response was created")


@contextmanager
def a_tenant(server: Server, scopes: list[Scope] | None = None) -> Iterator[Tenant]:
    """Create an API key and a client for it."""
    with server.database.begin() as tx:
        key, secret = create_key(tx, f"tenant {uuid4().hex[:8]}", scopes, datetime.now(UTC))
    with server.client(secret) as client:
        yield Tenant(key.id, secret, client)


def message(text: str) -> Json:
    """Return an output item that holds `text`."""
    content = [{"type": "output_text", "text": text, "annotations": [], "logprobs": []}]
    return {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": content}


def usage_json(usage: Usage = USAGE) -> Json:
    """Return `usage` in OpenAI's JSON shape."""
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.total_tokens,
    }


def answer_report(text: str = TEXT, *, cut_reason: str | None = None, **echoed: Any) -> CallReport:
    """Return the report of a successful call, as a worker makes it."""
    response = {"output": [message(text)] if text else [], "usage": usage_json(), **echoed}
    return CallReport(
        result=Answer(response, cut_reason),
        http_status=200,
        raw=b"{}",
        provider_request_id="req_provider",
        provider_response_id="resp_provider",
        provider_model="o3-pro-2025-06-10",
        usage=USAGE,
        cost=Cost(COST_MICROUSD, CostSource.PROVIDER),
    )


class FakeWorker:
    """Changes rows and sends notifications as a worker does, through the store's own functions."""

    def __init__(self, server: Server) -> None:
        self._database = server.database
        self._notifier = server.state.notifier

    def job(self, job_id: str) -> Job:
        with self._database.read() as tx:
            return get_job(tx, job_id)

    def claim(self, job_id: str) -> Job:
        """Move the job to `in_progress`."""
        with self._database.begin() as tx:
            silent_since = datetime.now(UTC) - timedelta(hours=1)  # so that it does not count as a live worker
            worker_id = register(tx, "a-host", 4711, 1, silent_since)
            claimed = claim_one(tx, job_id, worker_id, datetime.now(UTC))
        assert claimed is not None, "the job could not be claimed"
        return claimed[0]

    def complete(self, job_id: str, text: str = TEXT, *, announce: bool = True, **echoed: Any) -> Job:
        return self._answer(job_id, answer_report(text, **echoed), announce=announce)

    def complete_partial(self, job_id: str, text: str = TEXT, reason: str = "max_output_tokens") -> Job:
        return self._answer(job_id, answer_report(text, cut_reason=reason))

    def fail(self, job_id: str, failure: Failure, code: str | None = None) -> Job:
        """End the job as failed. `code` is the error code, by default that of the failure's kind."""
        job, attempt = self._running_attempt(job_id)
        now = datetime.now(UTC)
        with self._database.begin() as tx:
            end_one(tx, attempt, Outcome.FAILED, now, CallReport(failure, http_status=failure.http_status))
            job = move_one(
                tx,
                Verb.FAIL,
                job,
                now,
                error_kind=failure.kind,
                error_code=code or ERROR_CODES[failure.kind],
                error_message=failure.message,
                error_param=failure.provider_param,
                error_http_status=failure.http_status,
            )
        self._publish_end(job_id)
        return job

    def reschedule(self, job_id: str, failure: Failure, delay: timedelta, *, raw: bytes | None = None) -> Job:
        """Let the attempt fail with the body `raw`. The next one starts after `delay`."""
        job, attempt = self._running_attempt(job_id)
        now = datetime.now(UTC)
        with self._database.begin() as tx:
            end_one(tx, attempt, Outcome.FAILED, now, CallReport(failure, failure.http_status, raw))
            return move_one(
                tx,
                Verb.RESCHEDULE,
                job,
                now,
                available_at=now + delay,
                failures=job.failures + 1,
                error_kind=failure.kind,
                error_message=failure.message,
                error_http_status=failure.http_status,
            )

    def cancel(self, job_id: str) -> Job:
        with self._database.begin() as tx:
            job = move_one(tx, Verb.CANCEL, get_job(tx, job_id), datetime.now(UTC))
        self._publish_end(job_id)
        return job

    def bring_to(self, status: Status, job_id: str) -> Job:
        """Move a queued job to `status`."""
        if status is Status.QUEUED:
            return self.job(job_id)
        if status is Status.IN_PROGRESS:
            return self.claim(job_id)
        if status is Status.FAILED:
            return self.fail(job_id, Failure(ErrorKind.REJECTED, "The provider refuses.", 400))
        if status is Status.COMPLETED:
            return self.complete(job_id)
        return self.complete_partial(job_id) if status is Status.INCOMPLETE else self.cancel(job_id)

    def _answer(self, job_id: str, report: CallReport, *, announce: bool = True) -> Job:
        job, attempt = self._running_attempt(job_id)
        assert isinstance(report.result, Answer)
        reason = report.result.cut_reason
        now = datetime.now(UTC)
        with self._database.begin() as tx:
            end_one(tx, attempt, Outcome.INCOMPLETE if reason else Outcome.COMPLETED, now, report)
            job = move_one(
                tx,
                Verb.COMPLETE_PARTIAL if reason else Verb.COMPLETE,
                job,
                now,
                usage=report.usage,
                incomplete_reason=reason,
                provider_response_id=report.provider_response_id,
                provider_model=report.provider_model,
            )
            save_answers(tx, [(job, report)])
        if announce:
            self._publish_end(job_id)
        return job

    def _publish_end(self, job_id: str) -> None:
        with self._database.read() as tx:
            deliveries = pending_deliveries(tx, job_id)
        self._notifier.ended([job_id], deliveries)

    def _running_attempt(self, job_id: str) -> tuple[Job, Attempt]:
        job = self.job(job_id)
        if job.status is Status.QUEUED:
            job = self.claim(job_id)
        with self._database.read() as tx:
            return job, attempts_of(tx, job_id)[-1]


def assert_error(
    answer: httpx.Response,
    status: int,
    *,
    type_: str = "invalid_request_error",
    code: str | None = None,
    param: str | None = None,
) -> str:
    """Assert that the answer is a complete OpenAI error that SDKs do not retry. Return its message."""
    assert answer.status_code == status, answer.text
    error: Json = answer.json()["error"]
    assert answer.json().keys() == {"error"}
    assert error.keys() == {"message", "type", "param", "code"}
    assert (error["type"], error["code"], error["param"]) == (type_, code, param), error
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"].startswith("req_")
    assert answer.headers["x-should-retry"] == "false"
    text: str = error["message"]
    assert text
    return text
