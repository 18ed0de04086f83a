"""The body of a request to the provider: the client's JSON without the fields that this server acts on."""

from collections.abc import Mapping
from typing import Any

from jobs.job import Truncation
from jobs.request_fields import WITHHELD_FIELDS


def build_body(settings: Mapping[str, Any], input_: Any, *, model_id: str, truncation: Truncation) -> dict[str, Any]:
    """Return the body of one call whose answer is awaited on the same connection.

    `settings` is the client's body without `input`, unknown fields included. Nulls are not sent: they mean the same as
    an absent field, and some gateways refuse them. `store: false` is sent on, for the client wants nothing stored. Any
    other `store` concerns this server, which stores the response itself.
    """
    kept = {name: value for name, value in settings.items() if name not in WITHHELD_FIELDS and value is not None}
    if settings.get("store") is False:
        kept["store"] = False
    return {**kept, "model": model_id, "input": input_, "truncation": truncation.value, "stream": False}
