"""`item_reference` is replaced by the item and the reasoning it needs. An unknown item is refused by name."""

from typing import Any

import pytest

from jobs.conversation import Item
from jobs.store.responses import get_request
from tests.api.world import MODEL, FakeWorker, Server, Tenant, assert_error

RS = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAAA1"}
BARE = {"type": "reasoning", "id": "rs_1", "summary": []}
FC = {
    "type": "function_call",
    "id": "fc_1",
    "call_id": "call_1",
    "name": "look",
    "arguments": "{}",
    "status": "completed",
}
WS = {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search", "query": "x"}}
RS2 = {**RS, "id": "rs_2", "encrypted_content": "gAAAA2"}
MSG: Item = {
    "type": "message",
    "id": "msg_1",
    "role": "assistant",
    "status": "completed",
    "content": [{"type": "output_text", "text": "There.", "annotations": [], "logprobs": []}],
}
OUT = {"type": "function_call_output", "call_id": "call_1", "output": "here"}
OUTPUT: list[Item] = [RS, WS, FC, RS2, MSG]


def ref(item_id: str) -> Item:
    return {"type": "item_reference", "id": item_id}


def stored(server: Server, response_id: str) -> Any:
    with server.database.read() as tx:
        return get_request(tx, response_id)[1]


def answered(tenant: Tenant, worker: FakeWorker, output: list[Item] = OUTPUT, **fields: Any) -> str:
    response_id: str = tenant.submit("Where?", **fields)["id"]
    worker.complete(response_id, output=output)
    return response_id


@pytest.mark.parametrize(
    ("given", "inserted"),
    [
        ([ref("fc_1"), OUT], [RS, FC, OUT]),
        ([{"id": "fc_1"}, OUT], [RS, FC, OUT]),
        ([ref("rs_1"), ref("fc_1"), OUT], [RS, FC, OUT]),
        ([ref("fc_1"), ref("rs_1"), OUT, ref("fc_1")], [RS, FC, OUT]),
        ([ref("ws_1"), ref("fc_1"), OUT, ref("msg_1")], [RS, WS, FC, OUT, RS2, MSG]),
        ([RS, ref("fc_1"), OUT], [RS, FC, OUT]),
        ([{**RS, "encrypted_content": None}, FC, OUT], [RS, FC, OUT]),
        ([BARE, ref("fc_1"), OUT], [RS, FC, OUT]),
        (
            [{"type": "reasoning", "id": "rs_nobodys", "summary": []}],
            [{"type": "reasoning", "id": "rs_nobodys", "summary": []}],
        ),
        ([{"type": "reasoning", "id": "fc_1", "summary": []}], [{"type": "reasoning", "id": "fc_1", "summary": []}]),
    ],
)
def test_a_reference_is_replaced_by_its_item(
    server: Server, tenant: Tenant, worker: FakeWorker, given: list[Item], inserted: list[Item]
) -> None:
    answered(tenant, worker)
    follow_up = tenant.submit(given)
    assert stored(server, follow_up["id"]) == inserted


def test_an_item_of_the_conversation_is_not_inserted_again(server: Server, tenant: Tenant, worker: FakeWorker) -> None:
    """The AI SDK also refers to items that `previous_response_id` already brings."""
    first = answered(tenant, worker)
    second = answered(tenant, worker, [{**MSG, "id": "msg_2"}], previous_response_id=first)
    follow_up = tenant.submit([ref("rs_1"), ref("fc_1"), ref("msg_2"), OUT], previous_response_id=second)
    assert stored(server, follow_up["id"]) == [OUT]


def test_the_last_item_with_an_id_is_used(server: Server, tenant: Tenant, worker: FakeWorker) -> None:
    answered(tenant, worker, [{**MSG, "id": "msg_0", "status": "incomplete"}])
    answered(tenant, worker, [{**MSG, "id": "msg_0"}, {**MSG, "id": "msg_0"}])
    assert stored(server, tenant.submit([ref("msg_0")])["id"]) == [{**MSG, "id": "msg_0"}]


def test_a_listed_item_can_be_referred_to(server: Server, tenant: Tenant, worker: FakeWorker) -> None:
    """`input_items.list` gives ids to items that have none."""
    first = answered(tenant, worker, [{name: each for name, each in MSG.items() if name != "id"}])
    second = tenant.submit([{"role": "user", "content": "And then?"}], previous_response_id=first)["id"]
    listed = tenant.http.get(f"/v1/responses/{second}/input_items", params={"order": "asc"}).json()["data"]
    inserted = stored(server, tenant.submit([ref(item["id"]) for item in listed])["id"])
    assert [item["role"] for item in inserted] == ["user", "assistant", "user"]
    assert inserted[2] == {"role": "user", "content": "And then?"}


def test_an_unknown_item_is_refused_by_name(tenant: Tenant, other: Tenant, worker: FakeWorker) -> None:
    """An unknown item, another tenant's item and an erased item get the same error."""
    answered(other, worker, [{**MSG, "id": "msg_foreign"}])
    erased = answered(tenant, worker, [{**MSG, "id": "msg_erased"}])
    tenant.http.delete(f"/v1/responses/{erased}")
    messages = set()
    nameless = f"msg_{erased.removeprefix('resp_')}0000"
    for name in ("msg_foreign", "msg_erased", "msg_nobodys", "msg\0", "", "x" * 300, nameless):
        body = {"model": MODEL, "background": True, "input": [{"role": "user", "content": "x"}, ref(name)]}
        answer = tenant.http.post("/v1/responses", json=body)
        message = assert_error(answer, 400, code="item_not_found", param="input[1].id")
        messages.add(message.replace(f"'{name[:64]}'", "ID"))
    assert len(messages) == 1
    assert tenant.ids() == []


def test_an_answer_is_stored_whatever_ids_its_items_have(server: Server, tenant: Tenant, worker: FakeWorker) -> None:
    ids = ["msg\0", "x" * 10_000, "\N{RAT}", "", "msg_1", "msg_1"]
    output = [{**MSG, "id": item_id} for item_id in ids]
    response_id = answered(tenant, worker, output)
    assert [item["id"] for item in tenant.get(response_id)["output"]] == ids
    assert stored(server, tenant.submit([ref("msg_1")])["id"]) == [MSG]


def test_after_a_retry_the_items_are_those_of_the_new_answer(
    server: Server, tenant: Tenant, worker: FakeWorker
) -> None:
    response_id = tenant.submit()["id"]
    worker.cancel(response_id)
    tenant.http.post(f"/v1/responses/{response_id}/retry").raise_for_status()
    worker.complete(response_id, output=[MSG])
    assert stored(server, tenant.submit([ref("msg_1")])["id"]) == [MSG]


def test_an_own_image_can_be_referred_to(server: Server, tenant: Tenant, worker: FakeWorker) -> None:
    image = {"type": "image_generation_call", "id": "ig_1", "status": "completed", "result": "aGVsbG8="}
    answered(tenant, worker, [image])
    named = {"type": "image_generation_call", "id": "ig_1"}
    assert stored(server, tenant.submit([named])["id"]) == [image]
