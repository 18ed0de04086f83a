"""Lists the hosts whose clocks are off, as their processes report with each heartbeat. No job is affected."""

from collections.abc import Iterable, Sequence
from typing import Final

from jobs.clock import FAR_OFF
from jobs.store.undelivered_creates import ApiProcess
from jobs.store.workers import WorkerRow

_UNITS: Final = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))


def describe_clocks(workers: Iterable[WorkerRow], apis: Iterable[ApiProcess]) -> Sequence[str]:
    """Return a line for each host whose clock is off by `FAR_OFF` or more, with the process that reports it."""
    reported = [(each.host, f"worker {each.pid}", each.host_ahead) for each in workers]
    reported += [(each.host, f"API process {each.pid}", each.host_ahead) for each in apis if each.host is not None]
    limit = FAR_OFF.total_seconds()
    off = [(host, process, ahead) for host, process, ahead in reported if ahead and abs(ahead) >= limit]
    first = {host: (process, ahead) for host, process, ahead in reversed(off)}
    return [
        f"the clock of host {host} is {_span(ahead)} {'ahead of' if ahead > 0 else 'behind'} Backburner's time, "
        f"says {process} there"
        for host, (process, ahead) in sorted(first.items())
    ]


def _span(seconds: float) -> str:
    """Return a span in its largest unit and the next one, such as `1 h 30 min`."""
    left, counts = round(abs(seconds)), []
    for unit, length in _UNITS:
        count, left = divmod(left, length)
        counts.append((count, unit))
    largest = next(place for place, (count, _) in enumerate(counts) if count)
    return " ".join(f"{count} {unit}" for count, unit in counts[largest : largest + 2] if count)
