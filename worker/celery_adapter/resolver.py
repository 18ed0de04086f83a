"""Where a name is: looked up in a thread, as gevent does it; an address as it stands, which needs none."""

import _socket  # below gevent's own, which would ask its resolver, that is us
from ipaddress import ip_address
from typing import Any

from gevent.resolver.thread import Resolver


class AddressesAtOnce(Resolver):  # type: ignore[misc]  # gevent has no types
    """gevent's resolver, but for addresses: there a thread for each call is a tenth of the call's CPU."""

    def getaddrinfo(self, host: Any, *args: Any, **kwargs: Any) -> Any:
        """As `socket.getaddrinfo`."""
        if _is_address(host):
            return _socket.getaddrinfo(host, *args, **kwargs)
        return super().getaddrinfo(host, *args, **kwargs)


def _is_address(host: Any) -> bool:
    try:
        return isinstance(host, str) and bool(ip_address(host).compressed)
    except ValueError:
        return False
