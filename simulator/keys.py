"""API keys. Any key is valid unless it is in the list of bad ones."""

from simulator.errors import HttpError, named_reply
from simulator.http_server import Request
from simulator.options import Options


def accepted_key(request: Request, options: Options) -> str | None:
    """Return the request's bearer key; None if it has none, or one that the provider refuses."""
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    key = key.strip()
    if scheme.lower() != "bearer" or not key or key in options.bad_keys:
        return None
    return key


def require_key(request: Request, options: Options) -> str:
    """Return the request's key.

    Raises:
        HttpError: 401, the request has no valid key.
    """
    key = accepted_key(request, options)
    if key is None:
        raise HttpError(named_reply("401", request.path))
    return key
