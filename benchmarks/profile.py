"""CPU time of one job, step by step, in microseconds, from a sampling profiler (py-spy).

A few clients submit immediate calls as fast as they are answered. One worker runs them, and each is polled once at the
end. A sample of a running thread counts for the step whose function is on its stack. A step's time is its share of the
CPU time of its process, per job. Waiting is not counted: `latency` measures it.
"""

import json
import signal
import subprocess
import sys
import sysconfig
from collections import Counter
from pathlib import Path
from pkgutil import resolve_name
from typing import Final

from benchmarks.load import AUTHORIZED, drive, request, send_all
from benchmarks.report import Figure, Report, Role
from benchmarks.stage import Run, cpu_seconds, stage
from tests.support.stack import MODEL, Process, Stack
from tests.support.waiting import await_until

PROMPT: Final = "[[sim: full delay=0]] Say hello in one word."
CLIENTS: Final = 4
SAMPLES_A_SECOND: Final = 200
CPU: Final = Figure("CPU µs/job", digits=0)
SHARE: Final = Figure("% of its process")

# The steps of each process with their functions, classes, or directories of libraries. Inner steps come first, as a
# sample counts for the first step that is on its stack.
STEPS: Final[dict[str, dict[str, tuple[str, ...]]]] = {
    "API": {
        "submit: write the rows": ("api.submit_batch:SubmitBatcher._write_all",),
        "submit: check the queue's capacity": ("jobs.queue_capacity:QueueCapacity.refresh",),
        "dispatch: enqueue the messages": ("api.submit_batch:SubmitBatcher._enqueue_all",),
        "poll: look up the key": ("jobs.store.api_keys:find_keys",),
        "poll: read the row": ("jobs.store.responses:summaries", "api.response_view:read_bodies"),
        "submit: check the request": ("api.submit:_check",),
        "notify: receive ends": ("jobs.notifications:Listener",),
        "submit and poll: HTTP and JSON": ("run_asgi ", "data_received "),
        "the event loop and its sockets": ("asyncio/runners",),
        "threads: hand work over": ("Thread._bootstrap ",),
    },
    "worker": {
        "claim": ("worker.claim:Claimer._claim_all",),
        "call: read the request": ("worker.request_reader:RequestReader._read_all",),
        "call: HTTP, and read the answer": ("worker.provider.client:ProviderClient.call",),
        "notify": ("jobs.notifications:Notifier.ended",),
        "record": ("worker.outcome_recorder:OutcomeRecorder.record",),
        "dispatch: pick the next jobs": ("jobs.store.fair_scheduler:FairScheduler.pick",),
        "dispatch: enqueue the messages": ("jobs.task_queue:TaskQueue.enqueue",),
        "dispatch: the rest": ("worker.maintenance.loop:Maintenance",),
        "heartbeat": ("worker.heartbeat:Heartbeat",),
        "dispatch: receive the messages (Celery)": ("celery/", "kombu/"),
    },
}


def measure(run: Run) -> list[Report]:
    report = Report("profile", "CPU time of one job", (CPU, SHARE))
    frames = {part: {step: [_frames(each) for each in code] for step, code in STEPS[part].items()} for part in STEPS}
    with stage() as servers:
        for _ in range(run.rounds):
            with servers.stack({"BACKBURNER_MAX_ATTEMPTS": "1"}) as stack:
                _profile(stack, report, frames, run.scaled(20, 4))
    report.note(f"{CLIENTS} clients that submit as fast as they are answered; PostgreSQL and the simulator not counted")
    return [report]


def _profile(stack: Stack, report: Report, frames: dict[str, dict[str, list[str]]], seconds: int) -> None:
    _submit(stack, 2)  # the warm-up
    parts = {"API": stack.api, "worker": stack.worker_processes[0]}
    paths = {name: stack.data_dir / f"{name}.samples" for name in parts}
    before = {name: cpu_seconds([process]) for name, process in parts.items()}
    profilers = [_sample(process, paths[name]) for name, process in parts.items()]
    jobs = _submit(stack, seconds)
    used = {name: cpu_seconds([process]) - before[name] for name, process in parts.items()}
    for profiler in profilers:
        profiler.send_signal(signal.SIGINT)  # py-spy then writes its samples
        profiler.wait(60)
    for name, path in paths.items():
        counted = _by_step(path, frames[name])
        for step in (*STEPS[name], "the rest"):
            share = counted[step] / counted.total()
            values = {CPU.name: share * used[name] * 1e6 / jobs, SHARE.name: share * 100}
            report.add(f"{name}: {step}", Role.OURS, values)


def _submit(stack: Stack, seconds: int) -> int:
    """Submit for `seconds`, wait for the last end, and poll each response; return their number."""
    url = f"{stack.base_url}/responses"
    body = json.dumps({"model": MODEL, "input": PROMPT, "background": True}).encode()
    create = request("POST", url, AUTHORIZED, body)
    made = drive(url, lambda: create, clients=CLIENTS, seconds=seconds, keep=True)
    assert not made.refused, made.statuses
    job_ids = [json.loads(each)["id"] for each in made.bodies]
    await_until(lambda: stack.get(job_ids[-1])["status"] == "completed", 120, stack.logs)
    send_all(url, (request("GET", f"{url}/{job_id}", AUTHORIZED) for job_id in job_ids), clients=CLIENTS)
    return len(job_ids)


def _sample(process: Process, path: Path) -> "subprocess.Popen[bytes]":
    program = Path(sysconfig.get_path("scripts"), "py-spy")
    command = [str(program), "record", "--pid", str(process.popen.pid), "--nonblocking"]
    command += ["--rate", str(SAMPLES_A_SECOND), "--format", "raw", "--output", str(path), "--gil"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=sys.stderr)


def _frames(code: str) -> str:
    """Return the start of the frames of `code` in a stack of py-spy: `name (path` of a function, `Class.` of a class.

    Raises:
        ImportError, AttributeError: there is no such function or class, as after a rename.
    """
    module, colon, name = code.partition(":")
    if not colon:
        return code
    return f"{name}." if isinstance(resolve_name(code), type) else f"{name} ({module.replace('.', '/')}."


def _by_step(path: Path, steps: dict[str, list[str]]) -> Counter[str]:
    counted: Counter[str] = Counter()
    for line in path.read_text("utf-8").splitlines():
        stack, _, count = line.rpartition(" ")
        step = next((name for name, frames in steps.items() if any(each in stack for each in frames)), "the rest")
        counted[step] += int(count)
    return counted
