"""gevent's resolver, without a thread for each IP address that needs no lookup."""

import _socket  # below gevent's own, which would call its resolver: this one
from ipaddress import ip_address
from typing import Any

from gevent.resolver.thread import Resolver


class AddressResolver(Resolver):  # type: ignore[misc]  # gevent has no types
    """Resolves names in a thread, as gevent does, but IP addresses at once: a thread is a tenth of a call's CPU."""

    def getaddrinfo(self, host: Any, *args: Any, **kwargs: Any) -> Any:
        """Do as `socket.getaddrinfo` does."""
        if _is_address(host):
            return _socket.getaddrinfo(host, *args, **kwargs)
        return super().getaddrinfo(host, *args, **kwargs)


def _is_address(host: Any) -> bool:
    try:
        return isinstance(host, str) and bool(ip_address(host).compressed)
    except ValueError:
        return False
