"""Where the CPU time of one job goes, step by step, in microseconds, from a sampling profiler (py-spy).

Immediate calls are submitted by a few clients as fast as they are answered, run by one worker, and polled once each at
the end. Each sample of a thread that computes goes to the step whose function is on its stack; a step's time is its
share of what its process has used, by the job. Waiting costs nothing here: `latency` measures that.
"""

import json
import re
import signal
import subprocess
import sys
import sysconfig
from collections import Counter
from itertools import chain, repeat
from pathlib import Path
from typing import Final

from benchmarks.load import drive, request
from benchmarks.report import Figure, Report, Role
from benchmarks.stage import Run, cpu_seconds, stage
from tests.support.stack import API_KEY, MODEL, Process, Stack
from tests.support.waiting import await_until

PROMPT: Final = "[[sim: full delay=0]] Say hello in one word."
CLIENTS: Final = 4
SAMPLES_A_SECOND: Final = 200
AUTHORIZED: Final = {"authorization": f"Bearer {API_KEY}"}
CPU: Final = Figure("CPU µs/job", digits=0)
SHARE: Final = Figure("% of its process")

# Each process's steps, the inner ones first: a sample goes to the first that is on its stack.
STEPS: Final[dict[str, dict[str, str]]] = {
    "API": {
        "submit: the rows": r"SubmitBatcher\._write_all ",
        "submit: is there room for a message?": r"QueueCapacity\.refresh ",
        "dispatch: enqueue the messages": r"SubmitBatcher\._enqueue_all ",
        "poll: whose key is it?": r"find_keys ",
        "poll: the row": r"(standings|show_all) ",
        "submit: check the request": r"_check \(api/acceptance",
        "notify: hear of ends": r"Waiters\.",
        "submit and poll: HTTP and JSON": r"run_asgi |data_received ",
        "the event loop and its sockets": r"asyncio/runners",
        "threads: hand over": r"Thread\._bootstrap ",
    },
    "worker": {
        "claim": r"Claims\._claim_all ",
        "call: read the request": r"Executor\._read_requests ",
        "call: HTTP, and read the answer": r"ProviderClient\.call ",
        "notify": r"Announcer\.ended ",
        "record": r"Executor\._record ",
        "dispatch: whose turn is it?": r"Turns\.pick ",
        "dispatch: enqueue the messages": r"TaskQueue\.enqueue ",
        "dispatch: the rest of its ticks": r"Maintenance\.",
        "heartbeat": r"Heartbeat\.",
        "dispatch: receive the messages (Celery)": r"celery/|kombu/",
    },
}


def measure(run: Run) -> list[Report]:
    report = Report("profile", "Where one job's CPU time goes", (CPU, SHARE))
    with stage() as servers:
        for _ in range(run.rounds):
            with servers.stack({"BACKBURNER_MAX_ATTEMPTS": "1"}) as stack:
                _profile(stack, report, run.scaled(20, 4))
    report.note(f"{CLIENTS} clients that submit as fast as they are answered; PostgreSQL and the simulator not counted")
    return [report]


def _profile(stack: Stack, report: Report, seconds: int) -> None:
    _submit(stack, 2)  # warms everything up
    parts = {"API": stack.api, "worker": stack.worker_processes[0]}
    paths = {name: stack.data_dir / f"{name}.samples" for name in parts}
    before = {name: cpu_seconds([process]) for name, process in parts.items()}
    profilers = [_sample(process, paths[name]) for name, process in parts.items()]
    jobs = _submit(stack, seconds)
    used = {name: cpu_seconds([process]) - before[name] for name, process in parts.items()}
    for profiler in profilers:
        profiler.send_signal(signal.SIGINT)  # the sign to write down what it has
        profiler.wait(60)
    for name, path in paths.items():
        counted = _by_step(path, STEPS[name])
        for step in (*STEPS[name], "the rest"):
            share = counted[step] / counted.total()
            values = {CPU.name: share * used[name] * 1e6 / jobs, SHARE.name: share * 100}
            report.add(f"{name}: {step}", Role.OURS, values)


def _submit(stack: Stack, seconds: int) -> int:
    """Submit for so long, wait for the last end, and poll each; how many there were."""
    url = f"{stack.base_url}/responses"
    body = json.dumps({"model": MODEL, "input": PROMPT, "background": True}).encode()
    create = request("POST", url, AUTHORIZED, body)
    made = drive(url, lambda: create, clients=CLIENTS, seconds=seconds, keep=True)
    assert not made.refused, made.statuses
    job_ids = [json.loads(each)["id"] for each in made.bodies]
    await_until(lambda: stack.get(job_ids[-1])["status"] == "completed", 120, stack.logs)
    polls = chain((request("GET", f"{url}/{job_id}", AUTHORIZED) for job_id in job_ids), repeat(None))
    assert not drive(url, lambda: next(polls), clients=CLIENTS).refused
    return len(job_ids)


def _sample(process: Process, path: Path) -> "subprocess.Popen[bytes]":
    program = Path(sysconfig.get_path("scripts"), "py-spy")
    command = [str(program), "record", "--pid", str(process.popen.pid), "--nonblocking"]
    command += ["--rate", str(SAMPLES_A_SECOND), "--format", "raw", "--output", str(path), "--gil"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=sys.stderr)


def _by_step(path: Path, steps: dict[str, str]) -> Counter[str]:
    counted: Counter[str] = Counter()
    for line in path.read_text("utf-8").splitlines():
        stack, _, count = line.rpartition(" ")
        step = next((name for name, function in steps.items() if re.search(function, stack)), "the rest")
        counted[step] += int(count)
    return counted
