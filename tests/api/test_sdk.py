"""The official `openai` SDK works with only `base_url` and `api_key` set."""

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
import requests
from openai import AsyncOpenAI, OpenAI
from openai.types.responses import Response

from jobs.errors import ErrorKind, Failure
from jobs.lifecycle import Status
from jobs.store.api_keys import Scope
from tests.api.world import MODEL, TEXT, FakeWorker, Server, Tenant, a_tenant, usage_json

NOBODYS = "resp_00000000000000000000000000000000"


@pytest.fixture
def client(server: Server, tenant: Tenant) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key=tenant.secret) as client:
        yield client


@pytest.fixture
def strict(server: Server, tenant: Tenant) -> Iterator[OpenAI]:
    """The SDK with validation of every answer against its own types."""
    with OpenAI(
        base_url=f"{server.url}/v1", api_key=tenant.secret, _strict_response_validation=True, max_retries=0
    ) as client:
        yield client


def submit(client: OpenAI) -> Response:
    return client.responses.create(model=MODEL, input="Hello", background=True)


def test_submit_poll_and_read(client: OpenAI, worker: FakeWorker) -> None:
    submitted = client.responses.create(
        model=MODEL,
        input="Hello",
        background=True,
        metadata={"ticket": "4711"},
        extra_body={"priority": 7, "max_attempts": 2},
    )
    assert (submitted.status, submitted.background, submitted.output_text) == ("queued", True, "")
    assert submitted._request_id is not None
    worker.claim(submitted.id)
    assert client.responses.retrieve(submitted.id).status == "in_progress"
    worker.complete(submitted.id)
    done = client.responses.retrieve(submitted.id)
    assert (done.status, done.output_text, done.metadata) == ("completed", TEXT, {"ticket": "4711"})
    assert done.usage is not None
    assert done.usage.model_dump(exclude_unset=True) == usage_json()
    assert done.usage.output_tokens_details.reasoning_tokens == 64
    assert done.model_extra is not None
    assert done.model_extra["backburner"]["max_attempts"] == 2


def test_every_status_fits_the_sdks_own_types(strict: OpenAI, worker: FakeWorker) -> None:
    for status in Status:
        job_id = submit(strict).id
        worker.bring_to(status, job_id)
        if status is Status.FAILED:  # the SDK's closed list of error codes lacks ours
            job_id = submit(strict).id
            worker.fail(job_id, Failure(ErrorKind.SERVER_ERROR, "Oh no.", 500))
        found = strict.responses.retrieve(job_id)
        assert found.status == status
        assert found.created_at <= time.time()


def test_a_held_request_returns_with_the_answer(client: OpenAI, tenant: Tenant, worker: FakeWorker) -> None:
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(client.responses.create, model=MODEL, input="Hello")
        worker.complete(tenant.only_id())
        assert answer.result(5).output_text == TEXT


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("rate_limit_exceeded", openai.RateLimitError),
        ("provider_unavailable", openai.InternalServerError),
        ("deadline_exceeded", openai.InternalServerError),
        ("provider_rejected", openai.BadRequestError),
        ("model_unavailable", openai.NotFoundError),
    ],
)
def test_a_failed_held_request_is_not_retried_by_the_sdk(
    client: OpenAI, tenant: Tenant, worker: FakeWorker, code: str, error: type[openai.APIStatusError]
) -> None:
    failure = Failure(ErrorKind.REJECTED, "What the provider said.", 400)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(client.responses.create, model=MODEL, input="Hello")
        worker.fail(tenant.only_id(), failure, code)
        with pytest.raises(error, match="What the provider said") as caught:
            answer.result(10)
    assert caught.value.code == code
    assert len(tenant.ids()) == 1


def test_cancel_and_delete(client: OpenAI) -> None:
    submitted = submit(client)
    assert client.responses.cancel(submitted.id).status == "cancelled"
    assert client.responses.cancel(submitted.id).status == "cancelled"
    client.responses.delete(submitted.id)
    with pytest.raises(openai.NotFoundError) as caught:
        client.responses.retrieve(submitted.id)
    assert caught.value.param == "response_id"
    assert caught.value.request_id is not None


def test_models(client: OpenAI) -> None:
    assert [each.id for each in client.models.list()] == [MODEL]
    model = client.models.retrieve(MODEL)
    assert (model.id, model.owned_by) == (MODEL, "openai")
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("gpt-17")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


def test_errors_are_the_sdks_own_exceptions(server: Server, client: OpenAI) -> None:
    with pytest.raises(openai.AuthenticationError) as refused:
        client.with_options(api_key="bb_wrong").models.list()
    assert (refused.value.status_code, refused.value.code) == (401, "invalid_api_key")
    with pytest.raises(openai.NotFoundError):
        client.responses.cancel(NOBODYS)
    with pytest.raises(openai.BadRequestError) as wrong:
        client.responses.create(model=MODEL, input="x", max_output_tokens=3)
    assert (wrong.value.param, wrong.value.code) == ("max_output_tokens", "integer_below_min_value")
    assert wrong.value.type == "invalid_request_error"
    with a_tenant(server, [Scope.RESPONSES_READ]) as reader, pytest.raises(openai.PermissionDeniedError):
        submit(client.with_options(api_key=reader.secret))


def test_the_asynchronous_client(server: Server, tenant: Tenant, worker: FakeWorker) -> None:
    async def trip() -> str:
        async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key=tenant.secret) as client:
            submitted = await client.responses.create(model=MODEL, input="Hello", background=True)
            await asyncio.to_thread(worker.complete, submitted.id)
            return (await client.responses.retrieve(submitted.id)).output_text

    assert asyncio.run(trip()) == TEXT


def test_the_providers_own_snippet_works_with_only_host_and_key_changed(
    server: Server, tenant: Tenant, worker: FakeWorker
) -> None:
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(
            requests.post,
            f"{server.url}/v1/responses",
            headers={"Authorization": f"Bearer {tenant.secret}", "Content-Type": "application/json"},
            json={"model": MODEL, "input": "Hello"},
            timeout=30,
        )
        worker.complete(tenant.only_id())
        assert answer.result(5).json()["output"][0]["content"][0]["text"] == TEXT


def test_a_raw_answer_shows_our_headers(client: OpenAI) -> None:
    raw = client.responses.with_raw_response.retrieve(submit(client).id)
    assert raw.headers["etag"]
    assert raw.headers["openai-poll-after-ms"] == "1000"
    assert raw.parse().status == "queued"
