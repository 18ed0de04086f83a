"""The names of an installation whose namespace the tests have chosen."""

from typing import Final

from jobs.broker_names import Names

NAMESPACE: Final = "backburner"
NAMES: Final = Names(NAMESPACE)


def get_names() -> Names:
    return NAMES
