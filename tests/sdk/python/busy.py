"""What makes the worker send fewer calls for everybody. It goes last, when nobody else is kept waiting by it."""

from functools import partial

from tests.sdk.python.errors import refusal
from tests.sdk.python.user import MODEL, Facts, User, scenario


@scenario
def provider_is_busy(user: User) -> Facts:
    once = {"max_attempts": 1, "deadline_seconds": 2}
    create = partial(user.client().responses.create, model=MODEL, extra_body=once)
    return {
        "too many requests": refusal(partial(create, input=user.prompt("429"))),
        "overloaded": refusal(partial(create, input=user.prompt("503"))),
    }
