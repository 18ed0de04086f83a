"""Options at run time, and chaos that can be repeated."""

from typing import Any

import pytest

from simulator.options import CHAOS_MIX, Options
from simulator.script_runner import draw
from tests.simulator.provider import Provider

MIX = {"429": 1, "500": 2, "failed": 1}


def outcomes(provider: Provider, ids: list[str], prompt: str = "Hello") -> dict[str, Any]:
    provider.http.delete("/_calls")
    for call_id in ids:
        provider.ask(prompt, call_id=call_id)
    return {call["client_request_id"]: call["script"] for call in provider.calls()}


def test_the_default_script_can_be_changed_and_restored(provider: Provider) -> None:
    assert provider.configure(script="500 x1, then full text=Yes")["script"] == "500 x1, then full text=Yes"
    assert [provider.ask(call_id=f"job:{number}").status_code for number in (1, 2, 3)] == [500, 200, 200]
    assert provider.ask("[[sim: 503]]", call_id="job:4").status_code == 503
    assert provider.http.delete("/_script").json()["script"] == "full"
    assert provider.http.get("/_script").json() == {
        **Options(delay=0).model_dump(mode="json"),
        "chaos_mix": dict(CHAOS_MIX),
    }


@pytest.mark.parametrize(
    "changes",
    [
        {"script": "fulll"},
        {"delay": -1},
        {"chaos": 2},
        {"chaos_mix": {}},
        {"chaos_mix": {"429": 0}},
        {"chaos_mix": {"oops": 1}},
        {"colour": "red"},
        ["delay"],
    ],
)
def test_bad_options_change_nothing(provider: Provider, changes: Any) -> None:
    before = provider.http.get("/_script").json()
    answer = provider.http.put("/_script", json=changes)
    assert answer.status_code == 400
    assert answer.json()["message"]
    assert provider.http.get("/_script").json() == before
    assert provider.http.put("/_script", content=b"{").status_code == 400


@pytest.mark.long
def test_chaos_depends_on_seed_and_call_id_only(provider: Provider) -> None:
    provider.configure(chaos=0.5, seed=7, chaos_mix=MIX)
    ids = [f"job_{number}:1" for number in range(60)]
    first = outcomes(provider, ids)
    assert outcomes(provider, ids[::-1], "Other") == first
    assert set(first.values()) == {"full", *MIX}
    assert 15 <= sum(script != "full" for script in first.values()) <= 45
    provider.configure(seed=8)
    assert outcomes(provider, ids) != first


@pytest.mark.long
def test_chaos_by_prompt_is_replayed_by_fresh_jobs(provider: Provider) -> None:
    provider.configure(chaos=0.5, chaos_by="prompt", chaos_mix=MIX)

    def faults(job: str) -> list[Any]:
        return [
            outcomes(provider, [f"{job}{number}:{attempt}" for attempt in (1, 2)], f"Prompt {number}")[
                f"{job}{number}:{attempt}"
            ]
            for number in range(10)
            for attempt in (1, 2)
        ]

    assert faults("a") == faults("b")
    assert len(set(faults("a"))) > 1


def test_chaos_without_an_id_differs_from_call_to_call(provider: Provider) -> None:
    provider.configure(chaos=0.5, chaos_mix=MIX)
    for _ in range(30):
        provider.ask()
    scripts = [call["script"] for call in provider.calls()]
    assert "full" in scripts
    assert len(set(scripts)) > 1


def test_a_directive_takes_precedence_over_chaos(provider: Provider) -> None:
    provider.configure(chaos=1, chaos_mix={"500": 1})
    assert provider.ask().status_code == 500
    assert provider.ask("[[sim: full]]").status_code == 200


def test_draws_are_spread_evenly() -> None:
    draws = [draw(1, "chaos", f"job_{number}:1") for number in range(2000)]
    assert all(0 <= value < 1 for value in draws)
    assert 0.45 < sum(draws) / len(draws) < 0.55
