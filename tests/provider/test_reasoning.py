"""Encrypted reasoning is requested from models that support it. A provider that refuses only that breaks no call."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from jobs.backoff import Backoff
from jobs.job import Answer, CallReport
from jobs.model_catalog import Catalogue
from jobs.request_fields import ENCRYPTED_REASONING
from jobs.retry import Reschedule, next_step
from tests.provider.peer import Pending, Server, client_for, failure, whole
from tests.support.records import Records
from worker.provider.call_handle import CallHandle
from worker.provider.client import ProviderClient

O3 = "openai/o3-pro"
PLAIN = "acme/talker"
CATALOGUE = Catalogue([O3, PLAIN])


def ask(
    client: ProviderClient, server: Server, answer: bytes, model: str = O3, **fields: Any
) -> tuple[Any, CallReport]:
    """Return the `include` that the provider received, and the call's report."""
    pending = Pending(
        lambda: client.call(
            {"model": model, "input": "Hello", **fields},
            request_id="resp_1:1",
            model=CATALOGUE.find(model),
            deadline=timedelta(seconds=10),
            handle=CallHandle(),
            accepted=print,
        )
    )
    peer = server.accept()
    _, _, body = peer.read_request()
    peer.send(answer)
    return json.loads(body).get("include"), pending.report()


def refusal(message: str, param: str | None = None) -> bytes:
    return whole(json.dumps({"error": {"message": message, "param": param}}).encode(), "400 Bad Request")


@pytest.mark.parametrize(
    ("model", "fields", "include"),
    [
        (O3, {}, [ENCRYPTED_REASONING]),
        (O3, {"include": ["code_interpreter_call.outputs"]}, ["code_interpreter_call.outputs", ENCRYPTED_REASONING]),
        (O3, {"include": [ENCRYPTED_REASONING]}, [ENCRYPTED_REASONING]),
        (PLAIN, {}, None),
    ],
)
def test_it_is_requested_if_the_model_supports_it(server: Server, model: str, fields: Any, include: Any) -> None:
    asked, report = ask(client_for(server), server, whole(), model, **fields)
    assert asked == include
    assert isinstance(report.result, Answer)


@pytest.mark.parametrize(
    "answer",
    [
        refusal("Encrypted content is not supported with this model.", "include"),
        refusal("Encrypted content is not supported with this model."),
        refusal("Body validation error\nUnrecognized keys at '': 'include'"),
        refusal("Invalid value: 'reasoning.encrypted_content'.", "include[0]"),
    ],
)
def test_a_provider_that_refuses_it_is_called_again_without_it(server: Server, answer: bytes, records: Records) -> None:
    client = client_for(server)
    asked, report = ask(client, server, answer)
    assert asked == [ENCRYPTED_REASONING]
    now = datetime.now(UTC)
    job = records.submit_job(deadline_at=now + timedelta(hours=1), max_attempts=1)
    backoff = Backoff(timedelta(seconds=1), timedelta(seconds=1))
    assert next_step(failure(report), job, backoff=backoff, now=now, jitter=0.5) == Reschedule(now, 0)
    asked, report = ask(client, server, whole())
    assert asked is None
    assert isinstance(report.result, Answer)


def test_a_refusal_of_something_else_or_of_the_clients_include_is_final(server: Server) -> None:
    client = client_for(server)
    _, report = ask(client, server, refusal("Please include a subject in the prompt."))
    assert not failure(report).is_our_addition
    _, report = ask(client, server, refusal("Not supported.", "include"), include=[ENCRYPTED_REASONING])
    assert not failure(report).is_our_addition
    assert ask(client, server, whole())[0] == [ENCRYPTED_REASONING]
