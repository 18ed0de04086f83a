"""Calls to the simulator, which has the provider's real HTTP: every way in which a call may end."""

from collections.abc import Iterator
from datetime import timedelta

import pytest
from pydantic import SecretStr

from jobs.errors import ErrorKind, Failure
from jobs.job import Answer, CallReport, CostSource, Truncation
from jobs.model_catalog import Catalogue
from tests.simulator.provider import Provider, running
from worker.provider.call_handle import CallHandle
from worker.provider.client import ProviderClient
from worker.provider.request import build_body

MODEL = Catalogue(["openai/o3-pro"]).find("openai/o3-pro")
K = ErrorKind


@pytest.fixture(scope="module")
def simulator() -> Iterator[Provider]:
    with running() as provider:
        yield provider


def ask(simulator: Provider, script: str, request_id: str = "resp_0:1", deadline: float = 10) -> CallReport:
    body = build_body({}, f"[[sim: {script}]] Hello", model_id=MODEL.id, truncation=Truncation.DISABLED)
    client = ProviderClient(f"{simulator.url}/v1", SecretStr("test-key"))
    return client.call(
        body,
        request_id=request_id,
        model=MODEL,
        deadline=timedelta(seconds=deadline),
        handle=CallHandle(),
        accepted=print,
    )


@pytest.mark.parametrize(
    "behaviour",
    [
        *("full", "sample-1", "sample-2", "json", "many-items", "unknown-items", "huge kb=300"),
        *("output-null", "no-status", "in-progress-item", "malformed-usage", "slow every=0.00001"),
    ],
)
def test_answers_with_text(simulator: Provider, behaviour: str) -> None:
    report = ask(simulator, behaviour)
    assert isinstance(report.result, Answer), report.result
    texts = [
        part["text"]
        for item in report.result.response["output"]
        if item["type"] == "message" and item["status"] == "completed"
        for part in item["content"]
    ]
    assert all(texts)
    assert texts
    assert (report.usage is None) == (behaviour == "malformed-usage")  # its output is not counted
    assert report.cost is not None
    assert report.cost.source is CostSource.PROVIDER
    assert report.provider_request_id


@pytest.mark.parametrize(
    ("behaviour", "kinds"), [("tool-call", "function_call"), ("refusal", "message"), ("no-usage", "message")]
)
def test_other_answers(simulator: Provider, behaviour: str, kinds: str) -> None:
    report = ask(simulator, behaviour)
    assert isinstance(report.result, Answer), report.result
    assert report.result.response["output"][-1]["type"] == kinds


def test_an_incomplete_answer(simulator: Provider) -> None:
    report = ask(simulator, "incomplete reason=content_filter")
    assert isinstance(report.result, Answer)
    assert report.result.cut_reason == "content_filter"


def test_cost_by_the_price_table_if_the_provider_sends_none(simulator: Provider) -> None:
    report = ask(simulator, "full cost=none")
    assert report.usage is not None
    assert report.cost == MODEL.cost_of(report.usage)


@pytest.mark.parametrize(
    ("behaviour", "kind"),
    [
        ("400", K.REJECTED),
        ("400-value", K.REJECTED),
        ("overflow", K.CONTEXT_OVERFLOW),
        ("401", K.BAD_CREDENTIALS),
        ("403", K.OUT_OF_CREDIT),
        ("404", K.MODEL_UNAVAILABLE),
        ("408", K.INTERRUPTED),
        ("413", K.REJECTED),
        ("422", K.REJECTED),
        ("429", K.RATE_LIMITED),
        ("429-quota", K.OUT_OF_CREDIT),
        ("500", K.SERVER_ERROR),
        ("502", K.SERVER_ERROR),
        ("503", K.OVERLOADED),
        ("504", K.GATEWAY_TIMEOUT),
        ("524", K.GATEWAY_TIMEOUT),
        ("529", K.OVERLOADED),
        ("drop", K.INTERRUPTED),
        ("close", K.INTERRUPTED),
        ("garbage", K.INTERRUPTED),
        ("truncated", K.MALFORMED_ANSWER),
        ("not-json", K.MALFORMED_ANSWER),
        ("no-body", K.MALFORMED_ANSWER),
        ("unfinished", K.MALFORMED_ANSWER),
        ("failed", K.ANSWER_FAILED),
        ("failed code=invalid_prompt", K.ANSWER_REFUSED),
        ("empty", K.EMPTY_OUTPUT),
    ],
)
def test_failures(simulator: Provider, behaviour: str, kind: ErrorKind) -> None:
    report = ask(simulator, behaviour)
    assert isinstance(report.result, Failure), report.result
    assert report.result.kind is kind


@pytest.mark.parametrize("behaviour", ["half-open", "stall"])
def test_silence_ends_with_the_deadline(simulator: Provider, behaviour: str) -> None:
    report = ask(simulator, behaviour, deadline=0.5)
    assert isinstance(report.result, Failure)
    assert report.result.kind is K.CALL_DEADLINE


def test_the_provider_can_distinguish_our_attempts(simulator: Provider) -> None:
    first = ask(simulator, "503 retry-after=2, then full", "resp_1:1")
    second = ask(simulator, "503 retry-after=2, then full", "resp_1:2")
    assert isinstance(first.result, Failure)
    assert first.result.retry_after == timedelta(seconds=2)
    assert isinstance(second.result, Answer)
