"""Requests for encrypted reasoning, which a later turn can send back, made whether or not the client asks for it.

A model that reasons continues from its earlier reasoning if a later turn contains it. The provider stores nothing, so
the reasoning must come encrypted in the answer; `include` asks for it. A provider without this feature refuses with a
400 before it bills anything, and is not asked again.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from jobs.errors import ErrorKind, Failure
from jobs.job import CallReport
from jobs.model_catalog import Model
from jobs.request_fields import ENCRYPTED_REASONING, asks_for_reasoning

_ABOUT_INCLUDE: Final = re.compile(
    r"reasoning\.encrypted_content|encrypted content is not supported|\binclude(\[\d*\])?['\"`]|['\"`]include\b",
    re.IGNORECASE,
)


def with_encrypted_reasoning(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the body with encrypted reasoning added to its `include`."""
    include = body.get("include")
    return {**body, "include": [*(include if isinstance(include, list) else ()), ENCRYPTED_REASONING]}


class EncryptedReasoning:
    """Remembers which models of one provider refuse the request, for the life of the process."""

    def __init__(self) -> None:
        self._refusing: set[str] = set()

    def is_added_to(self, body: Mapping[str, Any], model: Model) -> bool:
        """Return whether this server should ask for encrypted reasoning because the client does not."""
        return model.encrypts_reasoning and model.id not in self._refusing and not asks_for_reasoning(body)

    def check_report(self, report: CallReport, model: Model) -> CallReport:
        """Return the report of a call that asked. A refusal of `include` is marked, and the model not asked again."""
        failure = report.result
        if not isinstance(failure, Failure) or failure.kind is not ErrorKind.REJECTED or report.cost is not None:
            return report
        param = failure.provider_param or ""
        if not param.startswith("include") and not _ABOUT_INCLUDE.search(failure.message):
            return report
        self._refusing.add(model.id)
        return replace(report, result=replace(failure, is_our_addition=True))
