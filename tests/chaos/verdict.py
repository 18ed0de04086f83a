"""The promises by their numbers (docs/architecture.md), and the error that says which one is broken."""

from typing import Final

TITLES: Final = {
    1: "what was acknowledged is there, once",
    2: "every job ends, by its deadline",
    3: "a terminal state is final, and entered once",
    4: "no answer thrown away, none bought again",
    5: "every call has a row, written before it was sent",
    6: "usage and cost are counted once per attempt",
    7: "the broker's content is disposable",
    8: "a key sees its own and nothing else",
    9: "no prompt, answer or secret in broker or logs",
    10: "no due job waits over 30 s without its reason",
}


class Violation(Exception):
    """A promise is broken, by one job or by the whole run."""

    def __init__(self, promise: int, message: str, job_id: str | None = None) -> None:
        super().__init__(f"promise {promise} ({TITLES[promise]}) is broken: {message}")
        self.promise = promise
        self.job_id = job_id
