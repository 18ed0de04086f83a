"""The life of a job on one screen: its statuses, the verbs that move it, and who may say them.

This table is the only place that knows the arrows. `jobs.store.jobs.move` applies it to rows, the
database's CHECK constraints and `docs/lifecycle.md` are derived from it.
"""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final, NamedTuple


class Status(StrEnum):
    """OpenAI's own six words, spelled alike in row, JSON, logs, metrics and page."""

    QUEUED = "queued"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    INCOMPLETE = "incomplete"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_terminal(self) -> bool:
        """Whether nothing but a caller's retry moves a job from here."""
        return self in TERMINAL


class Verb(StrEnum):
    """What can be done to a job."""

    CLAIM = "claim"
    COMPLETE = "complete"
    COMPLETE_PARTIAL = "complete_partial"
    RESCHEDULE = "reschedule"
    FAIL = "fail"
    RELEASE = "release"
    RESCUE = "rescue"
    ABANDON = "abandon"
    PARK = "park"
    UNPARK = "unpark"
    FAIL_UNKNOWN = "fail_unknown"
    ADOPT = "adopt"
    ADOPT_PARTIAL = "adopt_partial"
    EXPIRE = "expire"
    FAIL_DEPENDENCY = "fail_dependency"
    FAIL_UNAVAILABLE = "fail_unavailable"
    CANCEL = "cancel"
    RETRY = "retry"


class Transition(NamedTuple):
    """From which statuses a verb may be said, where it leads, who says it, and why."""

    sources: frozenset[Status]
    target: Status
    who: str
    why: str


S = Status
OPEN: Final = frozenset({S.QUEUED, S.IN_PROGRESS})
TERMINAL: Final = frozenset(Status) - OPEN


def _row(sources: set[Status], target: Status, who: str, why: str) -> Transition:
    return Transition(frozenset(sources), target, who, why)


# fmt: off
TRANSITIONS: Final[Mapping[Verb, Transition]] = MappingProxyType({
    Verb.CLAIM:     _row({S.QUEUED},                S.IN_PROGRESS, "worker",    "a free slot takes it; a new attempt begins"),
    Verb.COMPLETE:  _row({S.IN_PROGRESS},           S.COMPLETED,   "worker",    "the answer came"),
    Verb.COMPLETE_PARTIAL:       _row({S.IN_PROGRESS},           S.INCOMPLETE,  "worker",    "the answer came, cut by a token cap or a filter"),
    Verb.RESCHEDULE:     _row({S.IN_PROGRESS},           S.QUEUED,      "worker",    "the attempt failed; another is due at available_at"),
    Verb.FAIL:      _row({S.IN_PROGRESS},           S.FAILED,      "worker",    "the attempt failed for good"),
    Verb.RELEASE:   _row({S.IN_PROGRESS},           S.QUEUED,      "worker, rescuer", "handed back at shutdown, for want of files or memory, or by an audit; no failure is counted"),
    Verb.RESCUE:    _row({S.IN_PROGRESS},           S.QUEUED,      "rescuer",   "its worker fell silent, or broke the call off"),
    Verb.ABANDON:   _row({S.IN_PROGRESS},           S.FAILED,      "rescuer",   "the same, and no attempt is left"),
    Verb.PARK:      _row({S.IN_PROGRESS},           S.QUEUED,      "worker, rescuer", "its answer was lost; until parked_until the provider's log may tell more"),
    Verb.UNPARK:    _row({S.QUEUED},                S.QUEUED,      "worker, reconciler", "its lost call failed and cost nothing, so another may follow"),
    Verb.FAIL_UNKNOWN: _row({S.QUEUED},                S.FAILED,      "worker, reconciler, deadlines", "its lost call was billed, or nobody will ever tell"),
    Verb.ADOPT:     _row({S.QUEUED, S.IN_PROGRESS}, S.COMPLETED,   "worker",    "a late, paid answer of an attempt given up"),
    Verb.ADOPT_PARTIAL: _row({S.QUEUED, S.IN_PROGRESS}, S.INCOMPLETE,  "worker",    "a late, paid answer that was cut"),
    Verb.EXPIRE:    _row({S.QUEUED, S.IN_PROGRESS}, S.FAILED,      "deadlines", "its deadline passed"),
    Verb.FAIL_DEPENDENCY:    _row({S.QUEUED},                S.FAILED,      "followers", "the response that it follows brought no answer, or is gone"),
    Verb.FAIL_UNAVAILABLE: _row({S.QUEUED},                S.FAILED,      "api",       "its client was held for it as long as may be, and the provider is away"),
    Verb.CANCEL:    _row({S.QUEUED, S.IN_PROGRESS}, S.CANCELLED,   "caller",    "the caller no longer wants it"),
    Verb.RETRY:    _row({S.FAILED, S.CANCELLED},   S.QUEUED,      "caller",    "the caller wants it run again, under the same id"),
})
# fmt: on
