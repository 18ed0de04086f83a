"""Properties of the table of transitions as a whole."""

import ast
from pathlib import Path

import pytest

from jobs.lifecycle import OPEN, TERMINAL, TRANSITIONS, Actor, Status, Verb

ROOT = Path(__file__).parents[3]


def test_every_verb_has_its_row() -> None:
    assert set(TRANSITIONS) == set(Verb)
    for transition in TRANSITIONS.values():
        assert transition.sources
        assert transition.actors
        assert transition.reason


def test_the_statuses_are_openais_six_words() -> None:
    assert list(Status) == ["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
    assert {"queued", "in_progress"} == OPEN
    assert set(Status) == OPEN | TERMINAL
    assert not OPEN & TERMINAL
    assert {status for status in Status if status.is_terminal} == TERMINAL


def test_a_terminal_status_is_final_but_for_a_callers_retry() -> None:
    leaving = {verb for verb, transition in TRANSITIONS.items() if transition.sources & TERMINAL}
    assert leaving == {Verb.RETRY}
    assert TRANSITIONS[Verb.RETRY].actors == {Actor.CALLER}
    assert TRANSITIONS[Verb.RETRY].sources == {Status.FAILED, Status.CANCELLED}, "a paid answer is never run again"


def test_only_a_claim_begins_an_attempt() -> None:
    assert {verb for verb, each in TRANSITIONS.items() if each.target is Status.IN_PROGRESS} == {Verb.CLAIM}


@pytest.mark.parametrize("verb", [Verb.CANCEL, Verb.EXPIRE, Verb.ADOPT, Verb.ADOPT_PARTIAL])
def test_an_open_job_can_be_ended_whoever_holds_it(verb: Verb) -> None:
    assert TRANSITIONS[verb].sources == OPEN
    assert TRANSITIONS[verb].target in TERMINAL


def test_every_status_can_be_reached_and_every_open_one_left_for_the_end() -> None:
    reached = {Status.QUEUED}
    while grown := {t.target for t in TRANSITIONS.values() if t.sources & reached} - reached:
        reached |= grown
    assert reached == set(Status)
    for status in OPEN:
        assert {each.target for each in TRANSITIONS.values() if status in each.sources} >= {
            Status.FAILED,
            Status.CANCELLED,
        }


def test_the_table_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        TRANSITIONS[Verb.CLAIM] = TRANSITIONS[Verb.FAIL]  # type: ignore[index]  # that is the point


ACTORS = {
    "worker/outcome.py": Actor.WORKER,
    "worker/maintenance/rescuer.py": Actor.RESCUER,
    "worker/maintenance/deadlines.py": Actor.DEADLINES,
    "worker/maintenance/follow_ups.py": Actor.FOLLOW_UPS,
    "jobs/store/reconciliation.py": Actor.RECONCILER,
    "api/max_wait.py": Actor.API,
    "api/routes/responses.py": Actor.CALLER,
}


@pytest.mark.parametrize("path", ACTORS)
def test_the_table_lists_every_actor_that_uses_a_verb(path: str) -> None:
    tree = ast.parse((ROOT / path).read_text())
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "Verb"
    }
    assert used
    for name in used:
        assert ACTORS[path] in TRANSITIONS[Verb[name]].actors, f"{path} uses {name}"


def test_every_actor_uses_a_verb() -> None:
    assert {actor for each in TRANSITIONS.values() for actor in each.actors} == set(Actor)
