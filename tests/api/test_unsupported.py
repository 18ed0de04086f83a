"""SDK methods that this server does not support raise the SDK's own error, which names the method's path."""

from collections.abc import Callable
from typing import Any

import openai
import pytest
from openai import OpenAI

from tests.api.world import MODEL, Server, Tenant, assert_error

pytestmark = pytest.mark.one_database

CALLS: dict[str, Callable[[OpenAI], Any]] = {
    "responses.compact": lambda client: client.responses.compact(model=MODEL, input="Hello"),
    "conversations.create": lambda client: client.conversations.create(),
    "conversations.items": lambda client: client.conversations.items.list("conv_1"),
    "files.create": lambda client: client.files.create(file=b"x", purpose="user_data"),
    "files.list": lambda client: client.files.list(),
    "files.delete": lambda client: client.files.delete("file_1"),
    "batches.create": lambda client: client.batches.create(
        input_file_id="file_1", endpoint="/v1/responses", completion_window="24h"
    ),
    "batches.cancel": lambda client: client.batches.cancel("batch_1"),
    "chat.completions": lambda client: client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "Hello"}]
    ),
    "embeddings": lambda client: client.embeddings.create(model=MODEL, input="Hello"),
    "vector_stores": lambda client: client.vector_stores.create(),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_an_unsupported_method_raises_not_offered(
    server: Server, tenant: Tenant, call: Callable[[OpenAI], Any]
) -> None:
    with (
        OpenAI(base_url=f"{server.url}/v1", api_key=tenant.secret) as client,
        pytest.raises(openai.NotFoundError, match="is not offered by this server") as refused,
    ):
        call(client)
    assert (refused.value.code, refused.value.type) == ("not_offered", "invalid_request_error")
    assert refused.value.response.headers["x-should-retry"] == "false"
    assert tenant.ids() == []


def test_any_other_path_is_not_found(tenant: Tenant) -> None:
    error = assert_error(tenant.http.get("/v1/nowhere"), 404)
    assert "/v1/nowhere" in error
    assert_error(tenant.http.put("/v1/responses"), 405)


def test_background_work_cannot_be_continued(tenant: Tenant) -> None:
    assert tenant.submit(background_options={"completion_window": "2h"})["status"] == "queued"
    body = {"model": MODEL, "input": "x", "background_options": {"continuation_id": "cont_1"}}
    refused = tenant.http.post("/v1/responses", json=body)
    assert_error(refused, 400, code="invalid_value", param="background_options.continuation_id")
    body["background_options"] = {"completion_window": "9h"}
    assert (
        tenant.http.post("/v1/responses", json=body).json()["error"]["param"] == "background_options.completion_window"
    )
