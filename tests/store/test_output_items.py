"""Output items found by their ids, within one key."""

from dataclasses import replace
from typing import Any

from jobs.errors import ErrorKind, Failure
from jobs.job import Answer, CallReport
from jobs.store.attempts import save_answers
from jobs.store.output_items import find_items
from tests.support.records import ANSWER, Records, make_key


def response(*ids: str) -> dict[str, Any]:
    return {"output": [{"type": "reasoning", "id": each, "summary": []} for each in ids]}


def test_a_retried_job_holds_the_items_of_its_last_answer(records: Records) -> None:
    job = records.claim(records.submit_job())[0]
    failed = CallReport(Failure(ErrorKind.EMPTY_OUTPUT, "Nothing."), failed_response=response("rs_1", "rs_2"))
    with records.database.begin() as tx:
        save_answers(tx, [(job, failed)])
        assert find_items(tx, job.api_key_id, ["rs_1", "rs_2"]).keys() == {"rs_1", "rs_2"}
        save_answers(tx, [(replace(job, attempt=2), replace(failed, failed_response=response("rs_2", "rs_3")))])
        assert find_items(tx, job.api_key_id, ["rs_1", "rs_2", "rs_3"]).keys() == {"rs_2", "rs_3"}


def test_another_key_finds_nothing(records: Records) -> None:
    job = records.claim(records.submit_job())[0]
    with records.database.begin() as tx:
        save_answers(tx, [(job, replace(ANSWER, result=Answer(response("rs_1"))))])
    other = make_key(records.database, "another", records.clock())
    with records.database.read() as tx:
        assert find_items(tx, other.id, ["rs_1"]) == {}
        assert find_items(tx, job.api_key_id, ["rs_1"]).keys() == {"rs_1"}
