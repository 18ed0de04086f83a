"""The SDK sends a request again by itself. Nothing may be billed twice for it."""

from typing import Any

from openai import OpenAI

from tests.sdk.python.errors import refusal
from tests.sdk.python.responses import poll
from tests.sdk.python.user import MODEL, Facts, User, scenario


def through(user: User, mischief: str, **options: Any) -> OpenAI:
    """A client whose first try of every request meets `mischief` on its way; see `tests/sdk/lossy.py`."""
    return user.client(base_url=f"{user.lossy_url}/{mischief}/v1", **options)


@scenario
def no_idempotency_key_by_itself(user: User) -> Facts:
    prompt = user.prompt()
    client = user.client()
    twins = [client.responses.create(model=MODEL, input=prompt) for _ in range(2)]
    return {"ids": len({each.id for each in twins}), "billed_calls": user.billed_calls(prompt)}


@scenario
def idempotency_key(user: User) -> Facts:
    prompt = user.prompt()
    client = user.client()
    key = {"Idempotency-Key": f"{user.scenario} {user.name}"}
    twins = [client.responses.create(model=MODEL, input=prompt, extra_headers=key) for _ in range(2)]
    return {
        "ids": len({each.id for each in twins}),
        "billed_calls": user.billed_calls(prompt),
        "other_body": refusal(lambda: client.responses.create(model=MODEL, input="x", extra_headers=key)),
    }


@scenario
def answer_later_than_the_timeout(user: User) -> Facts:
    # the answer is there amid the second try, far from the moments at which one ends
    prompt = user.prompt("full text=Late. delay=6", "Without a whisper")
    response = through(user, "mute", timeout=4).responses.create(model=MODEL, input=prompt)
    return {"text": response.output_text, "billed_calls": user.billed_calls(prompt)}


@scenario
def connection_cut_before_the_answer(user: User) -> Facts:
    prompt = user.prompt("full text=Kept. delay=1")
    response = through(user, "cut").responses.create(model=MODEL, input=prompt)
    return {"text": response.output_text, "billed_calls": user.billed_calls(prompt)}


@scenario
def connection_cut_before_the_submission_is_confirmed(user: User) -> Facts:
    prompt = user.prompt("full text=Kept.")
    response = through(user, "hang-up").responses.create(model=MODEL, input=prompt, background=True)
    return {"text": poll(user, response).output_text, "billed_calls": user.billed_calls(prompt)}


@scenario
def bad_gateway_on_the_way(user: User) -> Facts:
    prompt = user.prompt("full text=Kept. delay=1")
    response = through(user, "502").responses.create(model=MODEL, input=prompt)
    return {"text": response.output_text, "billed_calls": user.billed_calls(prompt)}
