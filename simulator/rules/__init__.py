"""The request bodies that the simulated provider accepts. `Options.rules` names one of three sets of rules.

`lenient` accepts what OpenAI's own API accepts, so that clients can be tried unchanged. `strict` accepts only what
AI/ML API documents, which proves that this server sends nothing else there. `openai` is lenient about shapes and
refuses what OpenAI refuses in the items: invalid ids, nulls, and reasoning without the items that it led to.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, Literal

from simulator.rules.calls import check_calls
from simulator.rules.lenient import check_leniently
from simulator.rules.messages import BodyInvalid
from simulator.rules.openai import IssuedItems, check_items
from simulator.rules.strict import check_strictly

__all__ = ["BodyInvalid", "IssuedItems", "Rules", "check_body"]

Rules = Literal["lenient", "strict", "openai"]

_CHECKS: Final[Mapping[Rules, Callable[[Mapping[str, Any]], None]]] = MappingProxyType(
    {"lenient": check_leniently, "strict": check_strictly, "openai": check_leniently}
)


def check_body(body: Mapping[str, Any], rules: Rules, issued: IssuedItems) -> None:
    """Check a request body. `issued` are the items of earlier answers.

    Raises:
        BodyInvalid: a provider with these rules would refuse it.
    """
    _CHECKS[rules](body)
    check_calls(body)
    if rules == "openai":
        check_items(body, issued)
