"""The state that the admin API can show and change while calls run."""

from simulator.call_log import CallLog
from simulator.options import Options
from simulator.rules import IssuedItems
from simulator.script_runner import ScriptRunner


class State:
    """The options in force, the call log, the script runner, and the items of earlier answers."""

    def __init__(self, options: Options) -> None:
        self.initial_options = options
        self.options = options
        self.call_log = CallLog()
        self.script_runner = ScriptRunner()
        self.issued = IssuedItems()
