"""References to objects at the provider are refused if there are several API keys, which share one provider key."""

from typing import Any

import pytest

from jobs.settings import Settings
from tests.api.world import MODEL, Server, Tenant, a_tenant, assert_error, serve, settings_for
from tests.support.valkey import ValkeyServer


def asked_for(part: dict[str, Any]) -> dict[str, Any]:
    return {"input": [{"role": "user", "content": [{"type": "input_text", "text": "Look"}, part]}]}


NAMED: dict[str, dict[str, Any]] = {
    "input[0].id": {"input": [{"type": "image_generation_call", "id": "ig_1"}]},
    "input[0].content[1].file_id": asked_for({"type": "input_file", "file_id": "file-1"}),
    "input[0].output[0].file_id": {
        "input": [
            {
                "type": "function_call_output",
                "call_id": "call_1",
                "output": [{"type": "input_image", "file_id": "file-1", "detail": "auto"}],
            }
        ]
    },
    "input[0].output.file_id": {
        "input": [
            {
                "type": "computer_call_output",
                "call_id": "call_1",
                "output": {"type": "computer_screenshot", "file_id": "file-1"},
            }
        ]
    },
    "prompt": {"prompt": {"id": "pmpt_1"}},
    "tools[0].vector_store_ids": {"input": "x", "tools": [{"type": "file_search", "vector_store_ids": ["vs_1"]}]},
    "tools[0].container": {"input": "x", "tools": [{"type": "code_interpreter", "container": "cntr_1"}]},
    "tools[0].container.file_ids": {
        "input": "x",
        "tools": [{"type": "code_interpreter", "container": {"type": "auto", "file_ids": ["file-1"]}}],
    },
    "tools[0].environment.container_id": {
        "input": "x",
        "tools": [{"type": "shell", "environment": {"type": "container_reference", "container_id": "cntr_1"}}],
    },
    "tools[0].input_image_mask.file_id": {
        "input": "x",
        "tools": [{"type": "image_generation", "input_image_mask": {"file_id": "file-1"}}],
    },
    "tools[0].connector_id": {
        "input": "x",
        "tools": [{"type": "mcp", "server_label": "x", "connector_id": "connector_dropbox"}],
    },
}
HARMLESS: dict[str, dict[str, Any]] = {
    "a schema of one's own": {
        "input": "x",
        "tools": [{"type": "function", "name": "f", "parameters": {"properties": {"file_id": {"default": "file-1"}}}}],
    },
    "an earlier answer": {
        "input": [
            {
                "type": "message",
                "id": "msg_1",
                "role": "assistant",
                "status": "completed",
                "content": [
                    {
                        "type": "output_text",
                        "text": "As the file says",
                        "annotations": [{"type": "file_citation", "index": 0, "file_id": "file-1", "filename": "a"}],
                    }
                ],
            },
            {"role": "user", "content": "More"},
        ]
    },
    "a file that is sent along": asked_for(
        {"type": "input_file", "filename": "a.txt", "file_data": "data:text/plain,a"}
    ),
    "a container of one's own": {"input": "x", "tools": [{"type": "code_interpreter", "container": {"type": "auto"}}]},
}


@pytest.fixture(scope="module")
def strict(shared_database_url: str, shared_valkey: ValkeyServer) -> Any:
    with serve(settings_for(shared_database_url, shared_valkey.url, provider_ids=None)) as server, a_tenant(server):
        yield server


@pytest.mark.parametrize("param", NAMED)
def test_one_tenant_does_not_reach_objects_of_another_at_the_provider(param: str, strict: Server) -> None:
    """Objects at the provider are shared by all of its key's users. [18.12]"""
    with a_tenant(strict) as tenant:
        answer = tenant.http.post("/v1/responses", json={"model": MODEL, "background": True, **NAMED[param]})
        error = assert_error(answer, 400, code="unsupported_parameter", param=param)
        assert "BACKBURNER_PROVIDER_IDS=allow" in error
        assert tenant.ids() == []


@pytest.mark.parametrize("case", HARMLESS)
def test_content_that_the_provider_does_not_store_is_accepted(case: str, strict: Server) -> None:
    with a_tenant(strict) as tenant:
        answer = tenant.http.post("/v1/responses", json={"model": MODEL, "background": True, **HARMLESS[case]})
        assert answer.status_code == 200, answer.text


def test_references_are_allowed_until_there_is_a_second_key(database_url: str, valkey: ValkeyServer) -> None:
    """[18.12]"""

    def ask(tenant: Tenant) -> int:
        body = {"model": MODEL, "background": True, **NAMED["prompt"]}
        return tenant.http.post("/v1/responses", json=body).status_code

    def settings(provider_ids: str | None) -> Settings:
        return settings_for(database_url, valkey.url, provider_ids=provider_ids)

    with serve(settings(None)) as server, a_tenant(server) as first:
        assert ask(first) == 200
        with serve(settings("refuse")) as refusing, refusing.client(first.secret) as http:
            assert ask(Tenant(first.id, first.secret, http)) == 400
        with a_tenant(server) as second:
            assert (ask(first), ask(second)) == (400, 400)
            with serve(settings("allow")) as allowing, allowing.client(second.secret) as http:
                assert ask(Tenant(second.id, second.secret, http)) == 200
