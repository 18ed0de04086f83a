"""Scenarios that fail with the provider alone as well, and whose fault that is."""

from collections.abc import Mapping
from typing import Final

CLIENT_FAULTS: Final[Mapping[str, Mapping[str, str]]] = {
    "llama-index": {
        "structured_streamed": "LlamaIndex looks for streamed tool calls where its own Responses model no longer puts them",
    },
}
