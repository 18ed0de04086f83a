"""The life of a response: submit, poll, hold, cancel, delete, and read pages of them."""

import asyncio
import time
from typing import Any

from openai.pagination import SyncCursorPage
from openai.types.responses import Response

from tests.sdk.python.user import MODEL, PAUSE, Facts, User, scenario


def submit(user: User, directive: str = "full text=Done.", **options: Any) -> Response:
    submitted: Response = user.client().responses.create(
        model=MODEL, input=user.prompt(directive), background=True, **options
    )
    return submitted


def poll(user: User, response: Response) -> Response:
    client = user.client()
    while response.status in {"queued", "in_progress"}:
        time.sleep(PAUSE)
        response = client.responses.retrieve(response.id)
    return response


def far_away() -> float:
    return time.time() + 3600


@scenario
def background_and_poll(user: User) -> Facts:
    client = user.client()
    prompt = user.prompt('full text="Forty-two." reasoning-tokens=64 delay=0.3')
    response = client.responses.create(model=MODEL, input=prompt, background=True, metadata={"ticket": "4711"})
    submitted = response
    while response.status in {"queued", "in_progress"}:
        time.sleep(PAUSE)
        response = client.responses.retrieve(response.id)
    assert response.usage is not None
    return {
        "submitted": [submitted.status, submitted.background, submitted.output_text],
        "same_id": submitted.id == response.id,
        "status": response.status,
        "text": response.output_text,
        "model": response.model,
        "metadata": response.metadata,
        "reasoning_tokens": response.usage.output_tokens_details.reasoning_tokens,
        "request_id": (response._request_id or "")[:4],
        "billed_calls": user.billed_calls(prompt),
    }


@scenario
def held_create(user: User) -> Facts:
    prompt = user.prompt("full text=Held.")
    response = user.client().responses.create(model=MODEL, input=prompt)
    return {
        "status": response.status,
        "background": response.background,
        "text": response.output_text,
        "billed_calls": user.billed_calls(prompt),
    }


@scenario
def waiting_in_the_queue(user: User) -> Facts:
    submitted = submit(user, extra_body={"run_at": far_away()})
    response = user.client().responses.retrieve(submitted.id)
    user.client().responses.cancel(submitted.id)
    return {
        "status": response.status,
        "output": response.output,
        "text": response.output_text,
        "error": response.error,
        "usage": response.usage,
    }


@scenario
def odd_answers(user: User) -> Facts:
    oddities = ("sample-1", "sample-2", "output-null text=Odd.", "no-status text=Odd.", "in-progress-item text=Odd.")
    facts: Facts = {}
    for oddity in oddities:
        done = poll(user, submit(user, oddity))
        items = [item.status for item in done.output if item.type == "message"]
        facts[oddity.partition(" ")[0]] = [done.status, done.output_text, items]
    return facts


@scenario
def items_of_unknown_types(user: User) -> Facts:
    user = user.lenient()
    done = poll(user, submit(user, "unknown-items text=New."))
    return {"text": done.output_text, "types": [item.type for item in done.output]}


@scenario
def refusal_of_the_model(user: User) -> Facts:
    done = poll(user, submit(user, "refusal text=No."))
    [message] = [item for item in done.output if item.type == "message"]
    return {"status": done.status, "text": done.output_text, "parts": [part.type for part in message.content]}


@scenario
def incomplete_answer(user: User) -> Facts:
    done = poll(user, submit(user, "incomplete text=Once"))
    assert done.incomplete_details is not None
    return {"status": done.status, "text": done.output_text, "reason": done.incomplete_details.reason}


@scenario
def failed_response(user: User) -> Facts:
    done = poll(user, submit(user, "failed code=server_error", extra_body={"max_attempts": 1}))
    assert done.error is not None
    return {"status": done.status, "code": done.error.code, "message": bool(done.error.message)}


@scenario
def failed_response_with_a_code_of_ours(user: User) -> Facts:
    user = user.lenient()
    done = poll(user, submit(user, "overflow"))
    assert done.error is not None
    return {"status": done.status, "code": done.error.code, "message": bool(done.error.message)}


@scenario
def cancel_twice(user: User) -> Facts:
    client = user.client()
    submitted = submit(user, "full delay=60")
    first = client.responses.cancel(submitted.id)
    second = client.responses.cancel(submitted.id)
    return {
        "statuses": [first.status, second.status, client.responses.retrieve(submitted.id).status],
        "output": second.output,
    }


@scenario
def cancel_when_finished(user: User) -> Facts:
    done = poll(user, submit(user, "full text=Finished."))
    again = user.client().responses.cancel(done.id)
    return {"status": again.status, "output": [item.type for item in again.output]}


def listed(user: User, **query: Any) -> SyncCursorPage[Response]:
    """Ours, for the SDK has no method for it: the responses of this scenario, a page."""
    options: Any = {"params": {"metadata[scenario]": user.scenario, **query}}
    return user.client().get_api_list("/responses", page=SyncCursorPage[Response], model=Response, options=options)


@scenario
def delete(user: User) -> Facts:
    done = poll(user, submit(user, metadata={"scenario": user.scenario}))
    before = [each.id for each in listed(user)]
    user.client().responses.delete(done.id)
    return {"before": before == [done.id], "after": [each.id for each in listed(user)]}


@scenario
def pages_of_responses(user: User) -> Facts:
    label = {"scenario": user.scenario}
    ids = [submit(user, metadata=label, extra_body={"run_at": far_away()}).id for _ in range(5)]
    first = listed(user, limit=2)
    found = [each.id for each in first]
    for job_id in ids:
        user.client().responses.cancel(job_id)
    return {"first": len(first.data), "more": first.has_more, "newest_first": found == ids[::-1]}


@scenario
def models(user: User) -> Facts:
    client = user.client()
    listed = [each.id for each in client.models.list()]
    model = client.models.retrieve(MODEL)
    return {"listed": listed, "id": model.id, "owner": model.owned_by, "object": model.object}


@scenario
def raw_response(user: User) -> Facts:
    submitted = submit(user, extra_body={"run_at": far_away()})
    raw = user.client().responses.with_raw_response.retrieve(submitted.id)
    user.client().responses.cancel(submitted.id)
    response: Response = raw.parse()
    return {
        "content_type": raw.headers["content-type"],
        "request_id": raw.headers["x-request-id"] == response._request_id,
        "etag": bool(raw.headers["etag"]),
        "retry_after": 0 < float(raw.headers["retry-after"]) <= 60,
        "status": response.status,
    }


@scenario
def what_it_gives_can_be_given_back(user: User) -> Facts:
    done = poll(user, submit(user, "full text=Again."))
    again = Response.model_validate_json(done.to_json())
    return {"text": again.output_text, "same": again.to_dict() == done.to_dict()}


@scenario
def asynchronous_client(user: User) -> Facts:
    async def trip() -> Facts:
        async with user.asynchronous() as client:
            response = await client.responses.create(model=MODEL, input=user.prompt("full text=One."), background=True)
            while response.status in {"queued", "in_progress"}:
                await asyncio.sleep(PAUSE)
                response = await client.responses.retrieve(response.id)
            held = await asyncio.gather(
                *(client.responses.create(model=MODEL, input=user.prompt(f"full text={n}")) for n in range(3))
            )
            streamed = [
                event.delta
                async for event in await client.responses.create(
                    model=MODEL, input=user.prompt("full text=Streamed."), stream=True
                )
                if event.type == "response.output_text.delta"
            ]
            return {
                "text": response.output_text,
                "held": [each.output_text for each in held],
                "streamed": "".join(streamed),
            }

    return asyncio.run(trip())
