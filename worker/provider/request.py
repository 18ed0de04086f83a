"""What goes out: the client's own JSON less what we act upon ourselves."""

from collections.abc import Mapping
from typing import Any

from jobs.job import Truncation
from jobs.request_fields import WITHHELD_FIELDS


def build_body(settings: Mapping[str, Any], input_: Any, *, model_id: str, truncation: Truncation) -> dict[str, Any]:
    """The body of one call that waits for its answer on the same connection.

    `settings` is the client's body without `input`, unknown fields included. A null says nothing that its absence
    does not, and not every gateway takes one; so none is sent. A client that wants nothing stored wants it of the
    provider as well; one that wants it stored means us, who keep it.
    """
    kept = {name: value for name, value in settings.items() if name not in WITHHELD_FIELDS and value is not None}
    if settings.get("store") is False:
        kept["store"] = False
    return {**kept, "model": model_id, "input": input_, "truncation": truncation.value, "stream": False}
