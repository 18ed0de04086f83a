"""The directive language: valid and invalid scripts, and the completeness of its documentation."""

import re

import pytest

from simulator import script
from simulator.script import ScriptError, find_directive, parse_script, without_directives


def test_steps_are_used_in_order_and_the_last_repeats() -> None:
    parsed = parse_script("429 x2 retry-after=1, then full delay=0.5, 500")
    assert [parsed.step_of_call(number).behaviour for number in range(1, 7)] == ["429", "429", "full"] + ["500"] * 3
    assert parsed.steps[0].retry_after == "1"
    assert parsed.steps[1].delay == 0.5
    assert [step.source for step in parsed.steps] == ["429 x2 retry-after=1", "full delay=0.5", "500"]


def test_quoted_values_may_hold_what_the_grammar_uses() -> None:
    found = find_directive(r'[[sim: full text="a, b ]] \"c\" x2" chunk=3]] Hi')
    assert found is not None
    (step,) = parse_script(found).steps
    assert (step.text, step.chunk, step.times) == ('a, b ]] "c" x2', 3, 1)


def test_the_last_directive_counts_and_none_is_part_of_the_prompt() -> None:
    text = "[[sim: full]] Hello [[sim: 500]] there"
    assert find_directive(text) == "500"
    assert without_directives(text) == "Hello there"
    assert find_directive("no [directive] [here]") is None


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("", "must begin with a behaviour"),
        ("full,", "must begin with a behaviour"),
        ("x2 full", "must begin with a behaviour"),
        ("fulll", "unknown behaviour 'fulll'"),
        ("200", "unknown behaviour '200'"),
        ("full wait=1", "unknown option 'wait'"),
        ("full delay=soon", "bad value 'soon' for 'delay'"),
        ("full delay=-1", "bad value '-1' for 'delay'"),
        ("full billed=perhaps", "bad value 'perhaps'"),
        ("full cost=much", "bad value 'much'"),
        ("429 full", "unexpected 'full' after '429'"),
        ("answer", "'answer' must be followed by the name of a recorded answer"),
        ("answer delay=1", "'answer' must be followed by the name of a recorded answer"),
        ("answer one two", "unexpected 'two' after 'answer'"),
        ('full text="open', "cannot read"),
    ],
)
def test_an_error_names_its_reason(source: str, reason: str) -> None:
    with pytest.raises(ScriptError, match=re.escape(reason)):
        parse_script(source)


@pytest.mark.parametrize("text", ["[[sim: full", '[[sim: full text="]] Hello'])
def test_an_unfinished_directive_is_an_error(text: str) -> None:
    with pytest.raises(ScriptError, match="no end"):
        find_directive(text)


def test_every_behaviour_and_option_is_documented() -> None:
    documented = script.__doc__ or ""
    behaviours = script.ANSWERS | script.NAMED_ERRORS | script.EARLY_FAULTS | script.LATE_FAULTS
    assert {name for name in behaviours if not re.search(rf"^(?! ).*\b{name}\b", documented, re.MULTILINE)} == set()
    options = set(script.Step.__slots__) - {"behaviour", "source", "times", "recorded"}
    assert {name for name in options if f"`{name.replace('_', '-')}=" not in documented} == set()
