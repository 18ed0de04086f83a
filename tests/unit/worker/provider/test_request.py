"""The body of a request to the provider, made from a client's request."""

import json
from pathlib import Path

import pytest

from jobs.job import Truncation
from jobs.request_fields import OWN_FIELDS, WITHHELD_FIELDS
from worker.provider.request import build_body

SAMPLE = Path(__file__).parents[3] / "data" / "sample-request.json"


def test_the_providers_own_sample() -> None:
    sample = json.loads(SAMPLE.read_text())
    settings = {"model": sample["model"]}
    body = build_body(settings, sample["input"], model_id="openai/o3-pro", truncation=Truncation.DISABLED)
    assert body == {**sample, "truncation": "disabled", "stream": False}


def test_fields_of_this_server_are_not_sent() -> None:
    settings = dict.fromkeys(WITHHELD_FIELDS | OWN_FIELDS, "set")
    body = build_body(settings, "Hello", model_id="some/model", truncation=Truncation.DISABLED)
    assert body == {"model": "some/model", "input": "Hello", "truncation": "disabled", "stream": False}


@pytest.mark.parametrize(("store", "sent"), [(False, {"store": False}), (True, {}), (None, {})])
def test_store_false_is_sent(store: bool | None, sent: dict[str, bool]) -> None:
    body = build_body({"store": store}, "Hello", model_id="some/model", truncation=Truncation.DISABLED)
    assert {name: value for name, value in body.items() if name == "store"} == sent


def test_everything_else_is_sent_unchanged() -> None:
    kept = {
        "instructions": "Be brief.",
        "max_output_tokens": 16,
        "parallel_tool_calls": False,
        "tools": [],
        "text": {"format": {"type": "text"}, "future": None},
        "a_field_from_the_future": {"nested": [None]},
    }
    body = build_body({**kept, "model": "alias"}, [{"role": "user"}], model_id="some/model", truncation=Truncation.AUTO)
    assert {name: body[name] for name in kept} == kept
    assert body["model"] == "some/model"
    assert body["input"] == [{"role": "user"}]


def test_nulls_are_removed_and_the_jobs_truncation_is_sent() -> None:
    settings = {"temperature": None, "truncation": "disabled"}
    body = build_body(settings, "Hello", model_id="some/model", truncation=Truncation.AUTO)
    assert "temperature" not in body
    assert body["truncation"] == "auto"
