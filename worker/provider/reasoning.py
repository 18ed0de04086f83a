"""Reasoning asked for in a form that can be sent back, whether the client wants to see it or not.

A model that reasons goes on from its earlier reasoning where a later turn brings it along. The provider stores nothing,
so it has to come encrypted in the answer, which is asked for by `include`. A provider that has no such thing says so
in a 400 before it bills anything; it is not asked again.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from jobs.errors import ErrorKind, Failure
from jobs.job import CallReport
from jobs.model_catalog import Model
from jobs.request_fields import ENCRYPTED_REASONING, asks_for_reasoning

_ABOUT_IT: Final = re.compile(
    r"reasoning\.encrypted_content|encrypted content is not supported|\binclude(\[\d*\])?['\"`]|['\"`]include\b",
    re.IGNORECASE,
)


def added_to(body: Mapping[str, Any]) -> dict[str, Any]:
    """The body of a call that asks for encrypted reasoning beside all else that it includes."""
    include = body.get("include")
    return {**body, "include": [*(include if isinstance(include, list) else ()), ENCRYPTED_REASONING]}


class ReasoningAsker:
    """Knows which models of one provider may be asked, for as long as the process lasts."""

    def __init__(self) -> None:
        self._refusing: set[str] = set()

    def adds_to(self, body: Mapping[str, Any], model: Model) -> bool:
        """Whether this server is to ask, as the client does not."""
        return model.encrypts_reasoning and model.id not in self._refusing and not asks_for_reasoning(body)

    def judged(self, report: CallReport, model: Model) -> CallReport:
        """The report of a call that asked. A refusal of just that is marked, and the model not asked again."""
        failure = report.result
        if not isinstance(failure, Failure) or failure.kind is not ErrorKind.REJECTED or report.cost is not None:
            return report
        param = failure.provider_param or ""
        if not param.startswith("include") and not _ABOUT_IT.search(failure.message):
            return report
        self._refusing.add(model.id)
        return replace(report, result=replace(failure, was_added=True))
