"""What the control plane can look at and change while calls run."""

from simulator.call_log import Ledger
from simulator.options import Options
from simulator.rules import Issued
from simulator.script_runner import Director


class Controls:
    """The options in force, the ledger, the counted scripts, and the items that answers held."""

    def __init__(self, options: Options) -> None:
        self.initial_options = options
        self.options = options
        self.ledger = Ledger()
        self.director = Director()
        self.issued = Issued()
