"""What is passed on of a child, and how its end is told."""

import asyncio
import sys

import pytest

from cli.up.supervisor import LONGEST_LINE, ProcessObserver, Program, Supervisor, describe_exit


def run(code: str, **environment: str) -> tuple[int, list[tuple[str, str]]]:
    """Run Python code as a child called `it`: its exit status and its lines."""
    lines: list[tuple[str, str]] = []

    async def once() -> int:
        supervisor = Supervisor(ProcessObserver(lambda name, line: lines.append((name, line)), lambda _: None))
        return await supervisor.run_once(Program("it", (sys.executable, "-c", code), environment))

    return asyncio.run(once()), lines


def test_output_comes_line_by_line_with_the_childs_name_and_its_last_words() -> None:
    code = "import sys; print('one'); print('two', flush=True); sys.stderr.write('three\\r\\n\\xff last'); sys.exit(3)"
    status, lines = run(code, PYTHONIOENCODING="latin-1")
    assert status == 3
    assert lines == [("it", "one"), ("it", "two"), ("it", "three"), ("it", "\ufffd last")]


def test_a_line_without_end_is_passed_on_in_parts() -> None:
    _, lines = run(f"print('x' * {LONGEST_LINE * 3 + 5})")
    assert len(lines) > 1
    assert sum(len(line) for _, line in lines) == LONGEST_LINE * 3 + 5


def test_what_a_child_leaves_in_its_group_does_not_hold_it_up() -> None:
    code = "import subprocess; subprocess.Popen(['sleep', '600']); print('bye')"
    assert run(code) == (0, [("it", "bye")])


def test_a_child_gets_the_environment_that_it_is_given() -> None:
    assert run("import os; print(os.environ['WORD'])", WORD="given")[1] == [("it", "given")]


@pytest.mark.parametrize(
    ("status", "words"),
    [(0, "exited with status 0"), (3, "exited with status 3"), (-9, "was killed by SIGKILL"), (-99, "by signal 99")],
)
def test_an_exit_is_told_in_words(status: int, words: str) -> None:
    assert words in describe_exit(status)
