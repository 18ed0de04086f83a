"""The output of a child is forwarded line by line, and its exit is described."""

import asyncio
import sys

import pytest

from cli.up.supervisor import LONGEST_LINE_BYTES, ProcessObserver, Program, Supervisor, describe_exit


def run(code: str, **environment: str) -> tuple[int, list[tuple[str, str]]]:
    """Run Python code as a child called `it`; return its exit status and its lines."""
    lines: list[tuple[str, str]] = []

    async def once() -> int:
        supervisor = Supervisor(ProcessObserver(lambda name, line: lines.append((name, line)), lambda _: None))
        return await supervisor.run_once(Program("it", (sys.executable, "-c", code), environment))

    return asyncio.run(once()), lines


def test_output_is_forwarded_by_line_with_the_childs_name_until_its_end() -> None:
    code = "import sys; print('one'); print('two', flush=True); sys.stderr.write('three\\r\\n\\xff last'); sys.exit(3)"
    status, lines = run(code, PYTHONIOENCODING="latin-1")
    assert status == 3
    assert lines == [("it", "one"), ("it", "two"), ("it", "three"), ("it", "\ufffd last")]


def test_a_very_long_line_is_forwarded_in_parts() -> None:
    _, lines = run(f"print('x' * {LONGEST_LINE_BYTES * 3 + 5})")
    assert len(lines) > 1
    assert sum(len(line) for _, line in lines) == LONGEST_LINE_BYTES * 3 + 5


def test_a_grandchild_that_keeps_running_does_not_delay_the_end() -> None:
    code = "import subprocess; subprocess.Popen(['sleep', '600']); print('bye')"
    assert run(code) == (0, [("it", "bye")])


def test_a_child_gets_the_environment_of_its_program() -> None:
    assert run("import os; print(os.environ['WORD'])", WORD="given")[1] == [("it", "given")]


@pytest.mark.parametrize(
    ("status", "words"),
    [(0, "exited with status 0"), (3, "exited with status 3"), (-9, "was killed by SIGKILL"), (-99, "by signal 99")],
)
def test_an_exit_is_described_in_words(status: int, words: str) -> None:
    assert words in describe_exit(status)
