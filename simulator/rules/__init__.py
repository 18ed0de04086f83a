"""Which request bodies the simulated provider takes; `Options.rules` names one of these.

lenient takes what OpenAI's own API takes, so that clients can be tried as they are. strict takes what AI/ML API
documents and nothing else, so that what a server sends there is proven. openai is lenient about shapes, and refuses
what OpenAI refuses of the items themselves: ids, nulls, and reasoning that is torn from what it led to.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, Literal

from simulator.rules.calls import check_calls
from simulator.rules.lenient import check_leniently
from simulator.rules.messages import BodyInvalid
from simulator.rules.openai import Issued, check_items
from simulator.rules.strict import check_strictly

__all__ = ["BodyInvalid", "Issued", "Rules", "check_body"]

Rules = Literal["lenient", "strict", "openai"]

_CHECKS: Final[Mapping[Rules, Callable[[Mapping[str, Any]], None]]] = MappingProxyType(
    {"lenient": check_leniently, "strict": check_strictly, "openai": check_leniently}
)


def check_body(body: Mapping[str, Any], rules: Rules, issued: Issued) -> None:
    """Check a request body; `issued` are the items of earlier answers.

    Raises:
        BodyInvalid: a provider with these rules would refuse it.
    """
    _CHECKS[rules](body)
    check_calls(body)
    if rules == "openai":
        check_items(body, issued)
