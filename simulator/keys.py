"""API keys: any is good unless it is on the list of bad ones."""

from simulator.errors import Refused, named_refusal
from simulator.http_server import Request
from simulator.options import Options


def accepted_key(request: Request, options: Options) -> str | None:
    """The request's bearer key, or None if there is none or the provider would not take it."""
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    key = key.strip()
    if scheme.lower() != "bearer" or not key or key in options.bad_keys:
        return None
    return key


def require_key(request: Request, options: Options) -> str:
    """The request's key.

    Raises:
        Refused: 401, there is none that counts.
    """
    key = accepted_key(request, options)
    if key is None:
        raise Refused(named_refusal("401", request.path))
    return key
