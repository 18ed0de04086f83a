"""Kinds of outages of a provider, and a stack whose provider has them."""

from abc import ABC, abstractmethod
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

import httpx

from tests.support.certificates import DAY, Authority
from tests.support.gate import Gate
from tests.support.host_names import NAME, HostNames
from tests.support.stack import Process, Stack
from tests.support.tls_proxy import TlsProxy

UNUSED_HOST = "127.0.0.2"
"""Connections are refused there, because test servers listen on 127.0.0.1 only."""


class Outage(ABC):
    """One kind of outage: `begin` makes a running provider unavailable, `end` makes it available."""

    def __init__(self, provider_url: str, folder: Path) -> None:
        """Prepare the outage without beginning it; `folder` is for its files."""
        self.provider_url = provider_url
        self.folder = folder

    @property
    @abstractmethod
    def environment(self) -> dict[str, str]:
        """Return the environment of processes that call the provider."""

    @abstractmethod
    def begin(self) -> None:
        """Make the provider unavailable."""

    @abstractmethod
    def end(self) -> None:
        """Make the provider available."""

    def close(self) -> None:  # noqa: B027  # most have nothing to free
        """Free its resources."""

    @property
    def connection_count(self) -> int | None:
        """Number of connections to it, refused ones included; None if they cannot be counted."""
        return None


class Refused(Outage):
    """Connections are refused."""

    def __init__(self, provider_url: str, folder: Path) -> None:
        super().__init__(provider_url, folder)
        self.gate = Gate(provider_url)
        self.gate.open()

    @property
    def environment(self) -> dict[str, str]:
        return {"BACKBURNER_PROVIDER_BASE_URL": f"{self.gate.url}/v1"}

    def begin(self) -> None:
        self.gate.shut()

    def end(self) -> None:
        self.gate.open()

    def close(self) -> None:
        self.gate.__exit__(None, None, None)


class _Answers(Outage):
    status: ClassVar[str]

    @property
    def environment(self) -> dict[str, str]:
        return {}

    def begin(self) -> None:
        self._set_script(self.status)

    def end(self) -> None:
        self._set_script("full")

    def _set_script(self, script: str) -> None:
        httpx.put(f"{self.provider_url}/_script", json={"script": script}).raise_for_status()

    @property
    def connection_count(self) -> int:
        """Number of recorded calls; a test makes few enough."""
        calls: list[object] = httpx.get(f"{self.provider_url}/_calls").json()["calls"]
        return len(calls)


class Unavailable(_Answers):
    """Every call is answered 503."""

    status = "503"


class Overloaded(_Answers):
    """Every call is answered 529."""

    status = "529"


class Limited(_Answers):
    """Every call is answered 429."""

    status = "429"


class Nameless(Outage):
    """The provider's name is not resolved."""

    def __init__(self, provider_url: str, folder: Path) -> None:
        super().__init__(provider_url, folder)
        self.names = HostNames(folder)
        self.end()

    @property
    def environment(self) -> dict[str, str]:
        return {
            "BACKBURNER_PROVIDER_BASE_URL": f"http://{NAME}:{urlsplit(self.provider_url).port}/v1",
            **self.names.environment,
        }

    def begin(self) -> None:
        self.names.lead_to()

    def end(self) -> None:
        self.names.lead_to("127.0.0.1")


class HalfRefused(Nameless):
    """The name resolves to two hosts alternately, and one of them is down."""

    def begin(self) -> None:
        self.names.lead_to("127.0.0.1", UNUSED_HOST)


class Expired(Outage):
    """The provider's certificate has expired."""

    def __init__(self, provider_url: str, folder: Path) -> None:
        super().__init__(provider_url, folder)
        self._authority = Authority(folder)
        now = datetime.now(UTC)
        self._expired = self._authority.sign("expired", now - DAY)
        self._renewed = self._authority.sign("renewed", now + DAY)
        port = urlsplit(provider_url).port
        assert port is not None
        self.line = TlsProxy(port, self._renewed).__enter__()

    @property
    def environment(self) -> dict[str, str]:
        return {
            "BACKBURNER_PROVIDER_BASE_URL": f"https://127.0.0.1:{self.line.port}/v1",
            "SSL_CERT_FILE": str(self._authority.file),
        }

    def begin(self) -> None:
        self.line.present(self._expired)

    def end(self) -> None:
        self.line.present(self._renewed)

    def close(self) -> None:
        self.line.__exit__(None, None, None)

    @property
    def connection_count(self) -> int:
        return self.line.came


class OutageStack(Stack):
    """A stack whose provider has one kind of outage; set `way` before entering it."""

    way: type[Outage]
    outage: Outage

    def _start(self, name: str, arguments: list[str]) -> Process:
        if name != "simulator" and not hasattr(self, "outage"):
            self.outage = self.way(self.provider_url, self.data_dir)
            self.environment = {**self.outage.environment, **self.environment}
        return super()._start(name, arguments)

    def __exit__(self, *exception: object) -> None:
        try:
            super().__exit__(*exception)  # type: ignore[arg-type]
        finally:
            if hasattr(self, "outage"):
                self.outage.close()
