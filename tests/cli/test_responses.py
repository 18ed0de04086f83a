"""The commands for responses, against a fake server on a socket."""

import json
import os
import pty
import signal
import subprocess
from pathlib import Path

import pytest

from tests.cli.conftest import Command
from tests.cli.running import COMMAND, Running, environment
from tests.cli.server import KEY, USAGE_ROW, Fake, FakeServer, attempt_row
from tests.support.waiting import await_until


def submitted(backburner: Command, *arguments: str) -> str:
    done = backburner("submit", *arguments)
    assert done.exit_code == 0, done.stderr
    return done.stdout.strip()


def test_submit_prints_the_id_on_stdout_and_the_wait_command_on_stderr(backburner: Command, fake: Fake) -> None:
    done = backburner("submit", "Why?")
    assert done.exit_code == 0
    (name,) = fake.jobs
    assert done.stdout == f"{name}\n"
    assert f"backburner wait {name}" in done.stderr
    assert fake.jobs[name]["body"] == {"model": "openai/o3-pro", "input": "Why?", "background": True}


def test_every_option_of_submit_reaches_the_server(backburner: Command, fake: Fake) -> None:
    options = "--model other --instructions Brief. --max-output-tokens 100 --effort high --metadata a=1"
    more = "--metadata b=x=y --priority 9 --max-attempts 2 --deadline 90 --on-unknown-outcome fail"
    submitted(backburner, "Why?", *options.split(), *more.split())
    assert fake.requests[-1].body == {
        "model": "other",
        "input": "Why?",
        "background": True,
        "instructions": "Brief.",
        "max_output_tokens": 100,
        "reasoning": {"effort": "high"},
        "metadata": {"a": "1", "b": "x=y"},
        "priority": 9,
        "max_attempts": 2,
        "deadline_seconds": 90.0,
        "on_unknown_outcome": "fail",
    }


@pytest.mark.parametrize("arguments", [("-",), (), ("--file", "-"), ("--file", "prompt.txt")])
def test_a_prompt_comes_from_stdin_or_a_file(
    backburner: Command, fake: Fake, home: Path, arguments: tuple[str, ...]
) -> None:
    (home / "prompt.txt").write_text("From afar: ä\n", "utf-8")
    assert backburner("submit", *arguments, stdin="From afar: ä\n").exit_code == 0
    assert fake.requests[-1].body["input"] == "From afar: ä\n"


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("Why?", "--file", "prompt.txt"), 2, "not both"),
        (("",), 2, "the prompt is empty"),
        (("--file", "nowhere.txt"), 1, "--file nowhere.txt: No such file or directory"),
        (("Why?", "--metadata", "plain"), 2, "expected KEY=VALUE"),
        (("Why?", "--priority", "10"), 2, "--priority"),
        (("Why?", "--on-unknown-outcome", "shrug"), 2, "--on-unknown-outcome"),
    ],
)
def test_a_wrong_submit_is_refused_with_its_reason(
    backburner: Command, fake: Fake, arguments: tuple[str, ...], status: int, words: str
) -> None:
    done = backburner("submit", *arguments)
    assert (done.exit_code, fake.jobs) == (status, {})
    assert words in " ".join(done.stderr.split())


def test_a_submit_whose_answer_was_lost_is_repeated_under_the_same_key(backburner: Command, fake: Fake) -> None:
    fake.broken_creates = 2
    submitted(backburner, "Why?")
    creates = [each for each in fake.requests if each.method == "POST"]
    assert len(creates) == 3
    assert len({each.headers["idempotency-key"] for each in creates}) == 1
    assert len(fake.jobs) == 1


def test_wait_shows_each_change_on_stderr_and_the_answer_on_stdout(backburner: Command, fake: Fake) -> None:
    done = backburner("submit", "--wait", "Why?")
    assert (done.exit_code, done.stdout) == (0, "You said Why?\n")
    (name,) = fake.jobs
    assert done.stderr.splitlines() == [f"{name} in progress, attempt 1/5"]
    polls = [each for each in fake.requests if each.path.endswith(name)]
    assert "wait" not in polls[0].query
    assert 0 < float(polls[1].query["wait"]) <= 5


def test_wait_shows_the_position_in_the_queue(backburner: Command, fake: Fake) -> None:
    fake.stages = ("queued", "queued", "queued", "completed")
    assert "queued, attempt 1/5, position 3" in backburner("submit", "--wait", "Why?").stderr


def test_more_calls_than_attempts_are_shown_without_the_maximum(backburner: Command, fake: Fake) -> None:
    fake.free_calls = 6  # calls to a provider that was away do not count
    fake.stages = ("queued", "queued", "queued", "completed")
    assert "queued, attempt 7, position 3" in backburner("submit", "--wait", "Why?").stderr


def test_wait_shows_what_a_job_waits_for_without_a_line_per_second(backburner: Command, fake: Fake) -> None:
    away = "provider unreachable (connection refused) since 12:03 UTC, next try"
    fake.waiting_for = [f"{away} in 8 s", f"{away} in 6 s", f"{away} now", "no free slot"]
    fake.calls = 0
    fake.stages = ("queued",) * 5 + ("completed",)
    output = backburner("submit", "--wait", "Why?").stderr
    assert output.count("since 12:03 UTC") == 1, output
    assert "waiting for: no free slot" in output


def test_wait_continues_after_a_short_outage_of_the_server(backburner: Command, fake: Fake) -> None:
    name = submitted(backburner, "Why?")
    fake.broken_polls = 1
    done = backburner("wait", name)
    assert (done.exit_code, done.stdout) == (0, "You said Why?\n")
    assert "trying again" in done.stderr


@pytest.mark.parametrize(
    ("end", "status", "stdout", "words"),
    [
        ("failed", 1, "", "failed: Unsupported value. (provider_rejected)"),
        ("cancelled", 1, "", "cancelled"),
        ("incomplete", 0, "You said Why?\n", "is incomplete: max_output_tokens"),
    ],
)
def test_wait_reports_how_a_response_ended(
    backburner: Command, fake: Fake, end: str, status: int, stdout: str, words: str
) -> None:
    fake.stages = ("queued", end)
    done = backburner("submit", "--wait", "Why?")
    assert (done.exit_code, done.stdout) == (status, stdout)
    assert words in done.stderr


def test_wait_takes_several_and_fails_if_one_did(backburner: Command, fake: Fake) -> None:
    first, second = submitted(backburner, "One"), submitted(backburner, "Two")
    fake.jobs[first]["end"] = "failed"
    done = backburner("wait", first, second)
    assert (done.exit_code, done.stdout) == (1, "You said Two\n")


def test_wait_ends_after_its_timeout_and_leaves_the_job(backburner: Command, fake: Fake) -> None:
    fake.stages = ("queued",)
    name = submitted(backburner, "Why?")
    done = backburner("wait", name, "--timeout", "0.05")
    assert done.exit_code == 1
    assert f"{name} has not ended after 0.05 s" in done.stderr
    assert f"backburner wait {name}" in done.stderr
    assert "cancel" not in {each.path.rpartition("/")[2] for each in fake.requests}


def test_ctrl_c_while_waiting_leaves_the_job_running_and_prints_the_wait_command(
    home: Path, server: FakeServer, fake: Fake
) -> None:
    fake.stages = ("queued",)
    settings = environment(base_url=server.url, api_key=KEY)
    with Running((*COMMAND, "submit", "--wait", "Why?"), home, settings) as running:
        assert fake.polled.wait(20)
        (name,) = fake.jobs
        running.match(name)
        running.signal(signal.SIGINT)
        assert running.exit_status() == 130
        assert f"it keeps running; come back with: backburner wait {name}" in running.output
        assert "Traceback" not in running.output
    assert "end" not in fake.jobs[name]


def test_a_terminal_shows_a_moving_line_and_stdout_only_the_answer(home: Path, server: FakeServer, fake: Fake) -> None:
    fake.stages = ("queued", "in_progress", "in_progress", "completed")
    controller, terminal = pty.openpty()
    settings = {**environment(base_url=server.url, api_key=KEY), "TERM": "xterm", "COLUMNS": "100"}
    command = [*COMMAND, "submit", "--wait", "Why?"]
    with subprocess.Popen(command, cwd=home, env=settings, stdout=subprocess.PIPE, stderr=terminal) as process:
        os.close(terminal)
        answer, _ = process.communicate(timeout=30)
    seen = read_all(controller).decode()
    assert answer == b"You said Why?\n"
    assert "0:00:0" in seen
    assert "in progress, attempt" in seen
    assert "\x1b[2K" in seen


def read_all(terminal: int) -> bytes:
    read = b""
    try:
        while chunk := os.read(terminal, 65536):
            read += chunk
    except OSError:  # Linux reports a closed terminal by this error
        pass
    finally:
        os.close(terminal)
    return read


def test_get_shows_a_response(backburner: Command, fake: Fake) -> None:
    name = submitted(backburner, "Why?")
    fake.jobs[name]["polls"] = 2
    shown = backburner("get", name).stdout
    for words in (name, "completed", "openai/o3-pro", "1 m 01 s", "1,000 in, 234 out", "$0.0123", "You said Why?"):
        assert words in shown


def test_list_is_a_table_with_filters(backburner: Command, fake: Fake) -> None:
    names = [submitted(backburner, text) for text in ("One", "Two")]
    done = backburner("list", "--limit", "1", "--status", "queued", "--metadata", "a=1", "--after", "resp_0")
    assert fake.requests[-1].query == {"limit": "1", "status": "queued", "metadata[a]": "1", "after": "resp_0"}
    assert done.stdout.split()[:2] == ["id", "status"]
    assert names[0] in done.stdout
    assert f"There are more: --after {names[0]}" in done.stderr


@pytest.mark.parametrize("verb", ["get", "list"])
def test_get_and_list_show_what_a_job_waits_for(backburner: Command, fake: Fake, verb: str) -> None:
    fake.stages = ("queued",)
    fake.waiting_for = [f"provider unreachable (connection refused) since 12:03 UTC{chr(27)}, next try in 8 s"]
    name = submitted(backburner, "Why?")
    output = backburner(verb, *([name] if verb == "get" else [])).stdout
    assert "waiting for" in output
    assert "provider unreachable (connection refused) since 12:03 UTC, next try in 8 s" in output


def test_cancel_and_retry_print_the_new_status(backburner: Command, fake: Fake) -> None:
    first, second = submitted(backburner, "One"), submitted(backburner, "Two")
    done = backburner("cancel", first, "resp_unknown", second)
    assert done.exit_code == 1
    assert done.stdout == f"{first} cancelled\n{second} cancelled\n"
    assert "resp_unknown: Response with id 'resp_unknown' not found." in done.stderr
    assert backburner("retry", first).stdout == f"{first} queued\n"


def test_usage_is_a_table_with_totals(backburner: Command, fake: Fake) -> None:
    done = backburner("usage", "--days", "7")
    lines = done.stdout.splitlines()
    assert lines[1].split() == ["2026-11-22", "openai/o3-pro", "alice", "2", "1,200", "3,400", "4,600", "$1.25"]
    assert lines[-1].split() == ["total", "2", "1,200", "3,400", "4,600", "$1.25"]
    asked = fake.requests[-1].query
    assert 6 * 86400 < int(asked["end"]) - int(asked["start"]) <= 7 * 86400 + 1


def test_calls_of_unknown_cost_are_shown_beside_the_totals(backburner: Command, fake: Fake) -> None:
    fake.usage = [
        {**USAGE_ROW, "calls_of_unknown_cost": 1},
        {**USAGE_ROW, "cost_usd": None, "calls_of_unknown_cost": 2},
    ]
    _, some, none, total = backburner("usage").stdout.splitlines()
    assert some.endswith("$1.25  1 call of unknown cost")
    assert none.split()[-6:] == ["4,600", "2", "calls", "of", "unknown", "cost"]
    assert total.endswith("$1.25  3 calls of unknown cost")


def test_attempts_are_a_table_of_all_pages(backburner: Command, fake: Fake) -> None:
    name = submitted(backburner, "Why?")
    error = {"kind": "malformed_answer", "message": "The provider's answer is an HTML page, not JSON."}
    done = attempt_row(2, "completed", billed="yes", usage={"total_tokens": 1234}, cost_usd=0.0123)
    fake.attempts = [[attempt_row(1, "failed", error=error, body="<html>")], [done]]
    _, first, second = backburner("attempts", name).stdout.splitlines()
    assert first.split(maxsplit=8) == ["1", "failed", "200", "1", "m", "01", "s", "likely", error["message"]]
    assert second.split() == ["2", "completed", "200", "1", "m", "01", "s", "yes", "1,234", "$0.0123"]
    shown = json.loads(backburner("attempts", name, "--json").stdout)
    assert [(each["number"], "body" in each) for each in shown["data"]] == [(1, False), (2, False)]


def test_raw_attempts_print_the_bodies_of_failed_calls(backburner: Command, fake: Fake) -> None:
    name = submitted(backburner, "Why?")
    fake.attempts = [[attempt_row(1, "failed", body="<html>1</html>")], [attempt_row(2, "completed")]]
    done = backburner("attempts", name, "--raw")
    assert (done.stdout, done.stderr) == ("<html>1</html>\n", "attempt 1, HTTP 200:\n")
    assert json.loads(backburner("attempts", name, "--raw", "--json").stdout)["data"][0]["body"] == "<html>1</html>"
    fake.attempts = [[attempt_row(1, "completed")]]
    done = backburner("attempts", name, "--raw")
    assert (done.stdout, done.stderr) == ("", "No body of a failed call was kept.\n")


def test_json_prints_only_what_the_server_sent(backburner: Command, fake: Fake) -> None:
    done = backburner("submit", "Why?", "--json")
    name = json.loads(done.stdout)["id"]
    assert done.stderr == ""
    fake.jobs[name]["polls"] = 2
    for arguments in (("get", name), ("wait", name), ("retry", name), ("cancel", name)):
        assert json.loads(backburner(*arguments, "--json").stdout)["id"] == name
    assert json.loads(backburner("list", "--json").stdout)["data"][0]["id"] == name
    assert json.loads(backburner("usage", "--json").stdout) == {"object": "list", "data": [USAGE_ROW]}
    assert json.loads(backburner("submit", "--wait", "--json", "Why?").stdout)["status"] == "completed"


def test_a_refusal_is_one_line_with_its_type_and_request_id(backburner: Command) -> None:
    done = backburner("get", "resp_unknown")
    expected = "Error: Response with id 'resp_unknown' not found. (invalid_request_error, request req_77)\n"
    assert (done.exit_code, done.stdout, done.stderr) == (1, "", expected)


def test_a_wrong_key_is_refused_at_once(backburner: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKBURNER_API_KEY", "bb_wrong")
    done = backburner("wait", "resp_1")
    assert (done.exit_code, "Incorrect API key provided." in done.stderr) == (1, True)


def test_the_key_that_up_generated_is_used(backburner: Command, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BACKBURNER_API_KEY")
    assert "No API key: set BACKBURNER_API_KEY" in backburner("list").stderr
    (home / ".backburner").mkdir()
    (home / ".backburner/api_key").write_text(f"{KEY}\n")
    assert backburner("list").exit_code == 0
    monkeypatch.setenv("BACKBURNER_DATA_DIR", str(home / "elsewhere"))
    assert backburner("list").exit_code == 1


def test_an_unreachable_server_is_reported_with_how_to_start_it(
    backburner: Command, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BACKBURNER_BASE_URL", "http://127.0.0.1:1/v1")
    done = backburner("submit", "Why?")
    expected = "Cannot reach http://127.0.0.1:1/v1 (Connection refused). Is it running? Start it with: make up"
    assert (done.exit_code, done.stderr) == (1, f"Error: {expected}\n")


def test_another_server_at_the_url_is_reported(
    backburner: Command, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BACKBURNER_BASE_URL", server.url.replace("/v1", "/unknown"))
    done = backburner("get", "resp_1")
    assert done.exit_code == 1
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("BACKBURNER_BASE_URL", "localhost:8000", "BACKBURNER_BASE_URL: expected a URL that begins with http"),
        ("BACKBURNER_PORT", "high", "BACKBURNER_PORT: expected a valid integer"),
    ],
)
def test_a_wrong_variable_of_the_client_is_reported(
    backburner: Command, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, words: str
) -> None:
    monkeypatch.setenv(variable, value)
    done = backburner("list")
    assert (done.exit_code, words in done.stderr) == (1, True)


def test_a_wrong_variable_of_the_server_does_not_stop_a_client(
    backburner: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BACKBURNER_WORKER_CONCURRENCY", "many")
    assert backburner("list").exit_code == 0


def test_an_answer_cannot_move_a_terminals_cursor(home: Path, server: FakeServer, fake: Fake) -> None:
    controller, terminal = pty.openpty()
    settings = {**environment(base_url=server.url, api_key=KEY), "TERM": "xterm"}
    command = [*COMMAND, "submit", "--wait", "safe\x1b[2Junsafe"]
    with subprocess.Popen(command, cwd=home, env=settings, stdout=terminal, stderr=subprocess.PIPE) as process:
        os.close(terminal)
        process.communicate(timeout=30)
    await_until(lambda: fake.jobs, 1, "nothing was submitted")
    assert read_all(controller) == b"You said safe[2Junsafe\r\n"
