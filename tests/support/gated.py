"""A stack with a gate before its provider, so that the provider can become unreachable."""

from tests.support.gate import Gate
from tests.support.stack import Process, Stack


class GatedStack(Stack):
    """A stack whose calls pass a gate, which is open at first."""

    gate: Gate

    def _start(self, name: str, arguments: list[str]) -> Process:
        if name != "simulator" and not self.environment.get("BACKBURNER_PROVIDER_BASE_URL"):
            self.gate = Gate(self.provider_url)
            self.gate.open()
            self.environment["BACKBURNER_PROVIDER_BASE_URL"] = f"{self.gate.url}/v1"
        return super()._start(name, arguments)
