"""`responses.input_items.list` and `responses.input_tokens.count`."""

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import OpenAI

from api.token_estimate import PER_IMAGE
from tests.api.world import MODEL, TEXT, FakeWorker, Json, Server, Tenant, assert_error

PICTURE = "data:image/png;base64,iVBORw0KGgo="
MIXED: list[Any] = [
    {"role": "user", "content": "What is the weather?"},
    {"role": "assistant", "content": "Where?"},
    {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "call_1", "output": "Sunny."},
    {
        "role": "user",
        "content": [
            {"type": "input_image", "image_url": PICTURE},
            {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERg=="},
        ],
    },
]


@pytest.fixture
def client(server: Server, tenant: Tenant) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key=tenant.secret) as client:
        yield client


def items(tenant: Tenant, response_id: str, **query: Any) -> list[dict[str, Any]]:
    answer = tenant.http.get(f"/v1/responses/{response_id}/input_items", params={"order": "asc", **query})
    assert answer.status_code == 200, answer.text
    data: list[dict[str, Any]] = answer.json()["data"]
    return data


def test_a_text_input_is_one_message(client: OpenAI, tenant: Tenant) -> None:
    job_id = tenant.submit("Hello")["id"]
    page = client.responses.input_items.list(job_id)
    assert page.has_more is False
    [item] = page.data
    assert item.id
    assert item.model_dump(exclude_none=True, exclude={"id"}) == {
        "type": "message",
        "role": "user",
        "status": "completed",
        "content": [{"type": "input_text", "text": "Hello"}],
    }
    assert client.responses.input_items.list(job_id).data[0].id == item.id


def test_items_come_in_full_form(tenant: Tenant) -> None:
    found = items(tenant, tenant.submit(MIXED)["id"])
    assert [item["type"] for item in found] == [
        "message",
        "message",
        "function_call",
        "function_call_output",
        "message",
    ]
    assert len({item["id"] for item in found}) == len(found)
    assert {item["status"] for item in found} == {"completed"}
    assert found[0]["content"] == [{"type": "input_text", "text": "What is the weather?"}]
    assert found[1]["content"] == [{"type": "output_text", "text": "Where?", "annotations": []}]
    assert (found[3]["call_id"], found[3]["output"]) == ("call_1", "Sunny.")


def test_the_url_of_an_image_is_included_on_request(tenant: Tenant) -> None:
    job_id = tenant.submit(MIXED)["id"]
    plain = items(tenant, job_id)[-1]["content"]
    assert plain[0] == {"type": "input_image", "detail": "auto", "image_url": None}
    assert plain[1]["filename"] == "a.pdf"
    asked = items(tenant, job_id, **{"include[]": "message.input_image.image_url"})[-1]["content"]
    assert asked[0]["image_url"] == PICTURE


def test_a_follow_ups_items_are_the_whole_conversation(tenant: Tenant, worker: FakeWorker) -> None:
    first = tenant.submit("One")["id"]
    worker.complete(first)
    second = tenant.submit("Two", previous_response_id=first)["id"]
    worker.complete(second)  # with an output item of the same id as the first one's
    third = tenant.submit([{"role": "user", "content": "Three"}], previous_response_id=second)["id"]
    found = items(tenant, third)
    texts = [item["content"][0]["text"] for item in found]
    assert texts == ["One", TEXT, "Two", TEXT, "Three"]
    assert [item["role"] for item in found] == ["user", "assistant", "user", "assistant", "user"]
    assert len({item["id"] for item in found}) == 5
    assert [item["id"] for item in items(tenant, second)] == [item["id"] for item in found[:3]]
    tenant.http.delete(f"/v1/responses/{first}")
    assert [item["content"][0]["text"] for item in items(tenant, third)] == texts[2:]


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_pages_have_no_gaps_or_repeats_in_either_order(client: OpenAI, tenant: Tenant, order: Any) -> None:
    job_id = tenant.submit([{"role": "user", "content": str(number)} for number in range(45)])["id"]
    listed = list(client.responses.input_items.list(job_id, order=order, limit=10))
    texts = [item.model_dump()["content"][0]["text"] for item in listed]
    expected = [str(number) for number in range(45)]
    assert texts == (expected if order == "asc" else expected[::-1])
    ids = [item.id for item in listed]
    back: list[str] = []
    cursor: str = ids[-1]
    more = True
    while more:
        query = {"order": order, "limit": 7, "before": cursor}
        page = tenant.http.get(f"/v1/responses/{job_id}/input_items", params=query).json()
        more, cursor = page["has_more"], page["first_id"]
        assert (page["first_id"], page["last_id"]) == (page["data"][0]["id"], page["data"][-1]["id"])
        back = [*(item["id"] for item in page["data"]), *back]
    assert back == ids[:-1]
    between = items(tenant, job_id, order=order, after=ids[3], before=ids[6])
    assert [item["id"] for item in between] == ids[4:6]


def test_twenty_items_newest_first_by_default(tenant: Tenant) -> None:
    job_id = tenant.submit([{"role": "user", "content": str(number)} for number in range(30)])["id"]
    page = tenant.http.get(f"/v1/responses/{job_id}/input_items").json()
    assert [item["content"][0]["text"] for item in page["data"]] == [str(number) for number in range(29, 9, -1)]
    assert page["has_more"] is True


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"after": "msg_nowhere"}, "after"),
        ({"before": "msg_nowhere"}, "before"),
        ({"limit": 0}, "limit"),
        ({"limit": 101}, "limit"),
        ({"order": "up"}, "order"),
    ],
)
def test_an_invalid_query_is_refused_by_parameter(tenant: Tenant, query: dict[str, Any], param: str) -> None:
    job_id = tenant.submit()["id"]
    answer = tenant.http.get(f"/v1/responses/{job_id}/input_items", params=query)
    assert_error(answer, 400, code="invalid_value", param=param)


def test_items_of_another_tenant_are_not_found(client: OpenAI, other: Tenant) -> None:
    with pytest.raises(openai.NotFoundError):
        client.responses.input_items.list(other.submit()["id"])


def count(tenant: Tenant, **body: Any) -> Json:
    answer = tenant.http.post("/v1/responses/input_tokens", json={"model": MODEL, "input": "Hello", **body})
    assert answer.status_code == 200, answer.text
    counted: Json = answer.json()
    assert answer.headers["x-backburner-token-count"] == counted["backburner"]["method"].replace("_", "-")
    return counted


class TestTokens:
    def test_the_count_is_an_upper_bound_and_is_marked_as_one(self, client: OpenAI) -> None:
        raw = client.responses.input_tokens.with_raw_response.count(
            model=MODEL, input="Hello", instructions="Be brief."
        )
        counted = raw.parse()
        assert counted.object == "response.input_tokens"
        assert len("HelloBe brief.") <= counted.input_tokens < 200
        assert raw.headers["x-backburner-token-count"] == "upper-bound"
        assert counted.model_extra is not None
        assert counted.model_extra["backburner"]["exact"] is False

    def test_earlier_responses_count(self, client: OpenAI, tenant: Tenant, worker: FakeWorker) -> None:
        first = tenant.submit("A long question. " * 100)["id"]
        worker.complete(first)
        alone = client.responses.input_tokens.count(model=MODEL, input="Hello").input_tokens
        after = client.responses.input_tokens.count(input="Hello", previous_response_id=first).input_tokens
        assert after >= alone + 1700 + len(TEXT)
        with pytest.raises(openai.BadRequestError) as refused:
            client.responses.input_tokens.count(input="Hello", previous_response_id="resp_nowhere")
        assert refused.value.code == "previous_response_not_found"

    def test_tools_images_and_files_count(self, client: OpenAI) -> None:
        plain = client.responses.input_tokens.count(model=MODEL, input=MIXED[:1])
        mixed = client.responses.input_tokens.count(
            model=MODEL,
            input=MIXED,
            tools=[{"type": "function", "name": "weather", "parameters": {"type": "object"}, "strict": True}],
        )
        assert mixed.input_tokens > plain.input_tokens + 1000
        assert mixed.model_extra is not None
        facts = mixed.model_extra["backburner"]
        assert (facts["method"], facts["uncounted"], facts["uncounted_files"]) == ("partial", ["input_file"], 1)

    @pytest.mark.parametrize(
        "text", ["\N{PILE OF POO}" * 500, "\u6c34" * 500, "\ud83d\udca9", "\0\x1b\ufeff" * 99, '"\\' * 99]
    )
    def test_no_text_has_more_tokens_than_the_count(self, tenant: Tenant, text: str) -> None:
        """A byte-level vocabulary makes at most one token per byte. For these texts several vocabularies reach that."""
        answer = tenant.http.post("/v1/responses/input_tokens", content=json.dumps({"model": MODEL, "input": text}))
        assert answer.status_code == 200, answer.text
        assert answer.json()["input_tokens"] >= len(text.encode("utf-8", "surrogatepass"))
        assert answer.headers["x-backburner-token-count"] == "upper-bound"

    @pytest.mark.parametrize("address", ["https://example.com/1.png", PICTURE + "A" * 50_000, None])
    def test_an_image_counts_wherever_it_occurs(self, tenant: Tenant, address: str | None) -> None:
        picture = {"image_url": address} if address else {"file_id": "file_1"}
        forms: list[Json] = [
            {"role": "user", "content": [{"type": "input_image", **picture}]},
            {"type": "custom_tool_call_output", "call_id": "call_1", "output": [{"type": "input_image", **picture}]},
            {
                "type": "computer_call_output",
                "call_id": "call_2",
                "output": {"type": "computer_screenshot", **picture},
            },
        ]
        for form in forms:
            counted = count(tenant, input=[form])
            assert PER_IMAGE <= counted["input_tokens"] < PER_IMAGE + 300
            assert counted["backburner"]["method"] == "upper_bound"

    @pytest.mark.parametrize(
        ("body", "name"),
        [
            ({"prompt": {"id": "pmpt_1"}}, "prompt"),
            ({"tools": [{"type": "web_search_preview"}]}, "tools.web_search_preview"),
            ({"tools": [{"type": "mcp", "server_label": "a", "server_url": "https://a.example"}]}, "tools.mcp"),
        ],
    )
    def test_content_that_only_the_provider_holds_is_refused_by_name(
        self, tenant: Tenant, body: Json, name: str
    ) -> None:
        facts = count(tenant, **body)["backburner"]
        assert (facts["method"], facts["uncounted"]) == ("partial", [name])

    def test_an_empty_request_counts_almost_no_tokens(self, client: OpenAI, tenant: Tenant) -> None:
        assert client.responses.input_tokens.count().input_tokens < 50
        assert tenant.ids() == []

    def test_the_count_refuses_a_body_that_create_refuses(self, client: OpenAI) -> None:
        with pytest.raises(openai.NotFoundError):
            client.responses.input_tokens.count(model="gpt-17", input="Hello")
        with pytest.raises(openai.BadRequestError) as refused:
            client.responses.input_tokens.count(model=MODEL, input="Hello", conversation="conv_1")
        assert refused.value.param == "conversation"
        with pytest.raises(openai.BadRequestError, match="Item with id 'msg_nobodys' not found") as refused:
            client.responses.input_tokens.count(model=MODEL, input=[{"type": "item_reference", "id": "msg_nobodys"}])
        assert refused.value.param == "input[0].id"
