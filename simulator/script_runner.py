"""The choice of a call's step: its own directive, else chaos, else the default script.

Chance is a hash of the seed and the call's name. So the same calls get the same faults with the same seed, in whatever
order they arrive.
"""

import hashlib
from functools import lru_cache
from typing import Final

from cachetools import LRUCache

from simulator.options import Options
from simulator.recorded_answers import RecordedAnswer
from simulator.request import ProviderRequest
from simulator.script import Script, Step, parse_script

_JOBS_REMEMBERED: Final = 100_000

_parsed: Final = lru_cache(maxsize=1024)(parse_script)


def draw(seed: int, purpose: str, name: str) -> float:
    """Return a number in [0, 1) that depends only on the arguments."""
    digest = hashlib.blake2b(f"{seed}|{purpose}|{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64


class ScriptRunner:
    """Runs scripts and counts the calls of each job."""

    def __init__(self) -> None:
        self._calls_of_job: LRUCache[tuple[str, str], int] = LRUCache(_JOBS_REMEMBERED)

    def reset(self) -> None:
        """Forget all counts: every job's next call is its first."""
        self._calls_of_job.clear()

    def choose(self, options: Options, request: ProviderRequest, client_request_id: str | None) -> Step:
        """Return the step for this call.

        Raises:
            ScriptError: the request's directive does not parse.
        """
        job, attempt = _job(request, client_request_id)
        if request.script is not None:
            return self._next(_parsed(request.script), job)
        if options.chaos:
            # An id names one call. A prompt is the same at every attempt, so its calls are counted.
            if options.chaos_by == "prompt" or client_request_id is None:
                number = attempt or str(self._count("chaos", job))
                name = f"{request.prompt_sha256.hex()}:{number}"
            else:
                name = client_request_id
            if draw(options.seed, "chaos", name) < options.chaos:
                return _parsed(_weighted(options, name)).steps[0]
        return self._next(_parsed(options.script), job)

    def recorded(
        self, options: Options, name: str, request: ProviderRequest, client_request_id: str | None
    ) -> RecordedAnswer:
        """Return the next answer of the recorded case `name` for this job.

        Raises:
            ScriptError: no case has this name.
        """
        job, _ = _job(request, client_request_id)
        return options.recorded_answers.answer(name, self._count(f"answer {name}", job))

    def _next(self, script: Script, job: str) -> Step:
        return script.step_of_call(self._count(script.source, job) if script.counts_calls else 1)

    def _count(self, source: str, job: str) -> int:
        key = (job, source)
        number = self._calls_of_job.get(key, 0) + 1
        self._calls_of_job[key] = number
        return number


def _job(request: ProviderRequest, client_request_id: str | None) -> tuple[str, str]:
    """Return the name by which a job's calls are counted, and the number of this call if its id holds one."""
    job, _, attempt = (client_request_id or "").rpartition(":")
    return job or client_request_id or request.prompt_sha256.hex(), attempt


def _weighted(options: Options, name: str) -> str:
    point = draw(options.seed, "fault", name) * sum(options.chaos_mix.values())
    for source, weight in options.chaos_mix.items():
        point -= weight
        if point < 0:
            return source
    return next(source for source, weight in options.chaos_mix.items() if weight > 0)


def answer_delay(options: Options, step: Step, inference_id: str) -> float:
    """Return the seconds until the answer."""
    if step.delay is not None:
        return step.delay
    return options.delay * (1 + options.jitter * (2 * draw(options.seed, "jitter", inference_id) - 1))
