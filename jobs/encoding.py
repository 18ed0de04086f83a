"""JSON of what leaves in bulk: bodies to clients, and rows to the database."""

from typing import Any

import orjson
import pydantic_core


def to_json(value: Any) -> bytes:
    """The value as JSON; what is no number there becomes null, and a moment its ISO 8601.

    Raises:
        PydanticSerializationError: JSON has nothing for it.
    """
    try:
        return orjson.dumps(value)
    except TypeError:  # integers above 64 bits, which JSON has, and what is nested deeply
        return pydantic_core.to_json(value, inf_nan_mode="null")
