"""Chooses what a call gets: its own directive, else chaos, else the default script.

Chance is a hash of the seed and the call's name, so the same seed and the same calls meet the same faults in
whatever order they arrive.
"""

import hashlib
from collections import OrderedDict
from functools import lru_cache
from typing import Final

from simulator.options import Options
from simulator.recorded_answers import Recorded
from simulator.request import ProviderRequest
from simulator.script import Script, Step, parse_script

_JOBS_REMEMBERED: Final = 100_000

_parsed: Final = lru_cache(maxsize=1024)(parse_script)


def draw(seed: int, purpose: str, name: str) -> float:
    """A number in [0, 1) that depends on nothing but its arguments."""
    digest = hashlib.blake2b(f"{seed}|{purpose}|{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64


class ScriptRunner:
    """Knows the scripts and counts the calls of each job."""

    def __init__(self) -> None:
        self._calls_of_job: OrderedDict[tuple[str, str], int] = OrderedDict()

    def reset(self) -> None:
        """Every job's next call is its first."""
        self._calls_of_job.clear()

    def choose(self, options: Options, turn: ProviderRequest, client_request_id: str | None) -> Step:
        """The step for this call, with its delay filled in where it needs one.

        Raises:
            ScriptError: the turn's directive does not parse.
        """
        job, attempt = _job(turn, client_request_id)
        if turn.script is not None:
            return self._next(_parsed(turn.script), job)
        if options.chaos:
            # An id names one call; a prompt comes with every attempt and without an id must be counted.
            if options.chaos_by == "prompt" or client_request_id is None:
                number = attempt or str(self._count("chaos", job))
                name = f"{turn.prompt_sha256.hex()}:{number}"
            else:
                name = client_request_id
            if draw(options.seed, "chaos", name) < options.chaos:
                return _parsed(_weighted(options, name)).steps[0]
        return self._next(_parsed(options.script), job)

    def recorded(self, options: Options, name: str, turn: ProviderRequest, client_request_id: str | None) -> Recorded:
        """The recorded answer called `name` whose turn it is for this job.

        Raises:
            ScriptError: there is none of that name.
        """
        job, _ = _job(turn, client_request_id)
        return options.recorded_answers.answer(name, self._count(f"answer {name}", job))

    def _next(self, script: Script, job: str) -> Step:
        return script.step_of_call(self._count(script.source, job) if script.counts_calls else 1)

    def _count(self, source: str, job: str) -> int:
        key = (job, source)
        number = self._calls_of_job.pop(key, 0) + 1
        self._calls_of_job[key] = number
        if len(self._calls_of_job) > _JOBS_REMEMBERED:
            self._calls_of_job.popitem(last=False)
        return number


def _job(turn: ProviderRequest, client_request_id: str | None) -> tuple[str, str]:
    """By what the calls of a job are counted, and the number of this one where its id says it."""
    job, _, attempt = (client_request_id or "").rpartition(":")
    return job or client_request_id or turn.prompt_sha256.hex(), attempt


def _weighted(options: Options, name: str) -> str:
    point = draw(options.seed, "fault", name) * sum(options.chaos_mix.values())
    for source, weight in options.chaos_mix.items():
        point -= weight
        if point < 0:
            return source
    return next(source for source, weight in options.chaos_mix.items() if weight > 0)


def answer_delay(options: Options, step: Step, inference_id: str) -> float:
    """Seconds that an answer takes."""
    if step.delay is not None:
        return step.delay
    return options.delay * (1 + options.jitter * (2 * draw(options.seed, "jitter", inference_id) - 1))
