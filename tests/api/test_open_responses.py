"""Open Responses, for output that the simulator does not send: message phases and provider-specific items."""

import pytest

from tests.api.world import FakeWorker, Json, Tenant, message
from tests.support.open_responses import RESPONSE, assert_items_are_complete, assert_response, read_stream
from worker.provider.output import normalise_output

COMMENTARY: Json = {**message("I am checking the answer."), "id": "msg_1", "phase": "commentary"}
PLAIN: Json = {**message("Four."), "id": "msg_3"}
FINAL: Json = {**message("The answer is four."), "id": "msg_2", "phase": "final_answer"}
THOUGHT: Json = {"id": "rs_1", "type": "reasoning", "summary": [{"type": "summary_text", "text": "Four it is."}]}
OWN: Json = {"id": "cdc_1", "type": "acme:search_result", "status": "completed", "results": [{"chunk": "..."}]}


def as_read(output: list[Json]) -> list[Json]:
    """Return the output as a worker stores it."""
    return normalise_output(output, None, finished="completed", seed=lambda: "made")


def test_a_response_has_thirty_one_keys() -> None:
    assert len(RESPONSE["required"]) == 31


@pytest.mark.parametrize(
    "output",
    [[COMMENTARY, FINAL], [THOUGHT, COMMENTARY, FINAL], [OWN, FINAL]],
    ids=["phases", "phases after a thought", "an item of the provider's own"],
)
def test_an_output_is_shown_and_streamed_as_the_provider_sent_it(
    tenant: Tenant, worker: FakeWorker, output: list[Json]
) -> None:
    job_id = tenant.submit("Four?")["id"]
    worker.complete(job_id, output=as_read(output))
    response = tenant.get(job_id)
    assert_response(response, "completed")
    assert response["output"] == output
    with tenant.http.stream("GET", f"/v1/responses/{job_id}", params={"stream": True}) as answer:
        streamed = read_stream(answer)
    assert streamed.response == response
    assert_items_are_complete(streamed)


def test_nulls_of_a_provider_are_left_out_where_the_schema_forbids_them(tenant: Tenant, worker: FakeWorker) -> None:
    job_id = tenant.submit("Four?")["id"]
    thought = {**THOUGHT, "content": None, "encrypted_content": None}
    echoed: Json = dict.fromkeys(("temperature", "top_p", "service_tier", "truncation"))
    echoed["text"] = {"verbosity": None}
    worker.complete(job_id, output=as_read([thought, {**PLAIN, "phase": None}]), **echoed)
    response = tenant.get(job_id)
    assert_response(response, "completed")
    assert response["output"] == [THOUGHT, PLAIN]
