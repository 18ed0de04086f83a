"""The life of a job: its statuses, the verbs that change them, and the actors that may use each verb.

`jobs.store.jobs.move` applies this table to rows. The CHECK constraints of the database and `docs/lifecycle.md` are
derived from it.
"""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from enum import StrEnum
from types import MappingProxyType
from typing import Final, NamedTuple


class Status(StrEnum):
    """OpenAI's six statuses, spelled the same in rows, JSON, logs, metrics and docs."""

    QUEUED = "queued"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    INCOMPLETE = "incomplete"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_terminal(self) -> bool:
        """True if only a caller's retry can change this status."""
        return self in TERMINAL


class Verb(StrEnum):
    """A change of a job's status."""

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


class Actor(StrEnum):
    """The part of the program, or the person, that changes a status."""

    WORKER = "worker"
    RESCUER = "rescuer"
    RECONCILER = "reconciler"
    DEADLINES = "deadlines"
    FOLLOW_UPS = "follow_ups"
    API = "api"
    CALLER = "caller"
    OPERATOR = "operator"


class Transition(NamedTuple):
    """The statuses in which a verb applies, the status after it, the actors that may use it, and its reason."""

    sources: AbstractSet[Status]
    target: Status
    actors: AbstractSet[Actor]
    reason: str


S = Status
OPEN: Final = frozenset({S.QUEUED, S.IN_PROGRESS})
TERMINAL: Final = frozenset(Status) - OPEN
WORKER, RESCUER, RECONCILER, DEADLINES, FOLLOW_UPS, API, CALLER, OPERATOR = Actor

# fmt: off
TRANSITIONS: Final[Mapping[Verb, Transition]] = MappingProxyType({
    Verb.CLAIM:            Transition({S.QUEUED},      S.IN_PROGRESS, {WORKER},     "a worker has a free slot; a new attempt begins"),
    Verb.COMPLETE:         Transition({S.IN_PROGRESS}, S.COMPLETED,   {WORKER},     "the answer arrived"),
    Verb.COMPLETE_PARTIAL: Transition({S.IN_PROGRESS}, S.INCOMPLETE,  {WORKER},     "the answer arrived, cut short by a token limit or a content filter"),
    Verb.RESCHEDULE:       Transition({S.IN_PROGRESS}, S.QUEUED,      {WORKER},     "the attempt failed; the next one is due at available_at"),
    Verb.FAIL:             Transition({S.IN_PROGRESS}, S.FAILED,      {WORKER},     "the attempt failed and no other follows"),
    Verb.RELEASE:          Transition({S.IN_PROGRESS}, S.QUEUED,      {WORKER, RESCUER}, "the worker shuts down, lacks files or memory, or never sent the call; no failure is counted"),
    Verb.RESCUE:           Transition({S.IN_PROGRESS}, S.QUEUED,      {RESCUER},    "the worker stopped sending heartbeats, or lost the call"),
    Verb.ABANDON:          Transition({S.IN_PROGRESS}, S.FAILED,      {RESCUER},    "as rescue, but no attempt is left"),
    Verb.PARK:             Transition({S.IN_PROGRESS}, S.QUEUED,      {WORKER, RESCUER}, "the answer was lost; until parked_until the provider's log may show whether the call was billed"),
    Verb.UNPARK:           Transition({S.QUEUED},      S.QUEUED,      {WORKER, RECONCILER}, "the lost call failed and cost nothing, so another attempt may follow"),
    Verb.FAIL_UNKNOWN:     Transition({S.QUEUED},      S.FAILED,      {WORKER, RECONCILER, DEADLINES}, "the lost call was billed, or the log cannot show whether it was"),
    Verb.ADOPT:            Transition(OPEN,            S.COMPLETED,   {WORKER},     "a late, billed answer of an earlier attempt arrived"),
    Verb.ADOPT_PARTIAL:    Transition(OPEN,            S.INCOMPLETE,  {WORKER},     "the same, cut short"),
    Verb.EXPIRE:           Transition(OPEN,            S.FAILED,      {DEADLINES},  "the deadline passed"),
    Verb.FAIL_DEPENDENCY:  Transition({S.QUEUED},      S.FAILED,      {FOLLOW_UPS}, "the previous response has no answer, or was deleted"),
    Verb.FAIL_UNAVAILABLE: Transition({S.QUEUED},      S.FAILED,      {API},        "the provider is unavailable, and the client has waited as long as a request is held"),
    Verb.CANCEL:           Transition(OPEN,            S.CANCELLED,   {CALLER, OPERATOR}, "the caller cancels it, or the operator revokes the caller's key"),
    Verb.RETRY:            Transition({S.FAILED, S.CANCELLED}, S.QUEUED, {CALLER},  "the caller runs it again under the same id"),
})
# fmt: on
