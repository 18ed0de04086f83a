"""Protects what Flower leaves open: its page for Prometheus asks for no password, and a password may be left out.

`/healthcheck` stays open, which shows only that Flower runs, and so do the images and scripts of its pages.
"""

from collections.abc import Mapping
from typing import Final

from jobs.errors import SettingsError

VARIABLE: Final = "FLOWER_BASIC_AUTH"


def require_password(environment: Mapping[str, str]) -> None:
    """Check the password and ask for it on every page.

    Raises:
        SettingsError: the variable is set, but is not a comma-separated list of `user:password`.
    """
    given = environment.get(VARIABLE)
    if given is not None:
        for each in given.split(","):
            user, _, password = each.partition(":")
            if not (user and password):
                raise SettingsError(f"Settings are wrong:\n  {VARIABLE}: expected user:password, without commas")
    from flower.views.monitor import Metrics  # noqa: PLC0415  # not into every worker
    from tornado.web import authenticated  # noqa: PLC0415  # likewise

    Metrics.get = authenticated(Metrics.get)
