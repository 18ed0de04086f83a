"""Recorded answers: sent byte for byte, in order for each job, from the packaged file and from others."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulator.provider import ROOT, Provider, running
from tests.support.odd_answers import CASES, Case, compact, wire


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_case_is_sent_byte_for_byte_whatever_the_request(provider: Provider, case: Case) -> None:
    for streamed in (False, True):
        for number in (1, 2, 3):
            given = case.answers[min(number, len(case.answers)) - 1]
            got = provider.ask(f"[[sim: answer {case.name}]] Hi", f"job{streamed}:{number}", stream=streamed)
            assert got.status_code == given["status"]
            assert got.content == wire(given)
            assert given["headers"].items() <= dict(got.headers).items()


def test_answers_are_counted_per_job_or_by_the_prompt_without_an_id(provider: Provider) -> None:
    prompt = "[[sim: answer 429-with-its-delay-in-words]] Hi"
    calls = [(prompt, "a:1"), (prompt, "b:1"), (prompt, "a:2"), (prompt, None), (prompt + "!", None), (prompt, None)]
    assert [provider.ask(*call).status_code for call in calls] == [429, 429, 200, 429, 429, 200]


def test_an_own_file_adds_and_replaces_cases(tmp_path: Path) -> None:
    later = {"status": 503, "headers": {"Retry-After": "7", "content-type": "text/plain"}, "text": "later"}
    stream = {"sse": [": a comment\n\n", {"type": "response.future", "delta": "é"}, "data: [DONE]\n\n"]}
    cases = [{"name": "mine", "answers": [later, stream]}, {"name": "no-usage", "answers": [{"json": {"mine": 1.5}}]}]
    file = tmp_path / "answers.json"
    file.write_text(json.dumps({"cases": cases}))
    with running("--answers", str(file), "--script", "answer mine") as provider:
        first, second = provider.ask(call_id="job:1"), provider.ask(call_id="job:2")
        assert (first.status_code, first.text, first.headers["retry-after"]) == (503, "later", "7")
        assert (second.status_code, second.content) == (200, wire(stream))
        assert provider.ask("[[sim: answer no-usage]]").text == compact({"mine": 1.5})
        assert provider.ask("[[sim: answer cost-in-usage]]").json()["usage"]["cost"] == 0.0123


def test_the_call_log_records_an_answers_own_usage(provider: Provider) -> None:
    for name in ("cost-in-usage", "no-usage", "429-request-too-large", "200-failed-with-its-delay-in-words"):
        provider.ask(f"[[sim: answer {name}]]")
    booked = [(call["input_tokens"], call["output_tokens"], call["billed"]) for call in provider.calls()]
    assert booked == [(7, 21, True), (0, 0, True), (0, 0, False), (0, 0, False)]
    assert [call["outcome"] for call in provider.calls()] == ["answered", "answered", "refused", "answered"]


def test_native_background_mode_returns_a_recorded_answer_when_it_is_fetched(provider: Provider) -> None:
    provider.configure(native_background=True)
    case = next(case for case in CASES if case.name == "stream-where-json-was-asked-for-called-json")
    submitted = provider.ask(f"[[sim: answer {case.name}]]", background=True).json()
    assert submitted["status"] == "queued"
    provider.await_calls(lambda call_log: call_log["summary"]["in_flight"] == 0)
    fetched = provider.http.get(f"/v1/responses/{submitted['id']}")
    assert (fetched.content, fetched.headers["content-type"]) == (wire(case.answers[0]), "application/json")


def test_an_unknown_name_gets_a_clear_error(provider: Provider) -> None:
    refused = provider.ask("[[sim: answer nonsense]]")
    assert refused.status_code == 400
    assert "no recorded answer is named 'nonsense'" in refused.json()["message"]
    assert "must be followed by the name" in provider.ask("[[sim: answer]]").json()["message"]


@pytest.mark.parametrize(
    ("text", "script", "reason"),
    [
        (None, "full", "cannot read"),
        ("no json", "full", "is not a file of recorded answers"),
        ('{"cases": [{"name": "a"}]}', "full", "'answers' is missing"),
        ('{"cases": [{"name": "a", "answers": []}]}', "full", "a case has no answers"),
        ('{"cases": [{"name": "a", "answers": [{"status": 200}]}]}', "full", "needs one of json, text and sse"),
        ('{"cases": [{"name": "a", "answers": [{"status": 99, "text": ""}]}]}', "full", "99 is not the status"),
        ('{"cases": []}', "answer b", "no recorded answer is named 'b'"),
    ],
)
def test_an_unusable_file_gets_a_clear_error(
    provider: Provider, tmp_path: Path, text: str | None, script: str, reason: str
) -> None:
    file = tmp_path / "answers.json"
    if text is not None:
        file.write_text(text)
    refused = provider.http.put("/_script", json={"answers": str(file), "script": script})
    assert refused.status_code == 400
    assert reason in refused.json()["errors"][0]["msg"]


def test_the_command_line_accepts_a_file_and_reports_its_errors(tmp_path: Path) -> None:
    backburner = [sys.executable, "-c", "from cli.main import app; app()", "simulate"]
    command = [*backburner, "--answers", str(tmp_path / "none.json")]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=30)
    assert ended.returncode == 2
    assert f"cannot read {tmp_path / 'none.json'}: No such file or directory" in ended.stderr
