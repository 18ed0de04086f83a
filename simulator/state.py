"""What the control plane can look at and change while calls run."""

from simulator.call_log import Ledger
from simulator.options import Options
from simulator.rules import Issued
from simulator.script_runner import ScriptRunner


class State:
    """The options in force, the ledger, the counted scripts, and the items that answers held."""

    def __init__(self, options: Options) -> None:
        self.initial_options = options
        self.options = options
        self.ledger = Ledger()
        self.script_runner = ScriptRunner()
        self.issued = Issued()
