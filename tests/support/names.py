"""The broker names of the tests' installation."""

from typing import Final

from jobs.broker_names import Names

NAMESPACE: Final = "backburner"
NAMES: Final = Names(NAMESPACE)


def get_names() -> Names:
    return NAMES
