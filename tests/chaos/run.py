"""The run: clients work while the plan's faults are inflicted, and then every job must end."""

import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from tests.chaos import readiness, strangers
from tests.chaos.clients import SUBMITTERS, Clients, Seen
from tests.chaos.faults import Faults
from tests.chaos.plan import Plan, PlannedFault
from tests.chaos.refill import Refill, refill_after_flush
from tests.chaos.wiretap import listen
from tests.chaos.world import World

POLLERS = 2
OUTAGE_AFTER = 0.4
NEEDLESS_MESSAGES = 8


class Run:
    """One run of a plan in a world."""

    def __init__(self, world: World, plan: Plan, pace: float, say: Callable[[str], None]) -> None:
        """`pace` is the number of jobs submitted per second in all."""
        self._world = world
        self._faults = Faults(world)
        self._plan = plan
        self._pace = pace
        self._say = say
        self._calm = threading.Event()
        self._over = threading.Event()
        self._clients = Clients(world, plan, self._over)
        self.seen: Seen = self._clients.seen

    def go(self, drain_seconds: float) -> Refill:
        """Run until every acknowledged job has ended, or for `drain_seconds` after the last fault.

        Then, with nothing hurt, flush the broker once more and watch it.
        """
        begun = time.monotonic()
        with ThreadPoolExecutor(SUBMITTERS + POLLERS + 100) as threads:
            watchers = [threads.submit(self._clients.poll, number) for number in range(POLLERS)]
            watchers += [threads.submit(listen, self._world, self.seen, self._over), threads.submit(self._supervise)]
            watchers.append(threads.submit(readiness.look, self._world, self.seen, self._over))
            watchers += [threads.submit(readiness.ask, url, self.seen, self._over) for url in self._world.api_urls]
            hurting = [threads.submit(self._inflict_all, threads), threads.submit(self._outage)]
            hurting.append(threads.submit(self._clients.retry_the_failed, self._calm))
            submitters = [
                threads.submit(self._clients.submit_share, number, self._pace, threads) for number in range(SUBMITTERS)
            ]
            try:
                for submitter in submitters:
                    submitter.result()
                self._calm.set()
                for each in hurting:
                    each.result()
                self._world.heal()
                self._say(f"submitted and calm after {time.monotonic() - begun:.0f} s; draining")
                self._clients.drain(drain_seconds)
                refill = refill_after_flush(self._world, self._clients, threads)
            except BaseException:
                self._say(self._world.tail())
                raise
            finally:
                self._calm.set()
                self._over.set()
            for watcher in watchers:
                watcher.result()
        self.seen.seconds = time.monotonic() - begun
        return refill

    def _inflict_all(self, threads: ThreadPoolExecutor) -> None:
        running = []
        for fault in self._plan.faults:
            if self._calm.wait(fault.pause):
                break
            running.append(threads.submit(self._inflict, fault))
        for each in running:
            each.result()

    def _inflict(self, fault: PlannedFault) -> None:
        begun = time.time()
        match fault.name:
            case "enqueue needlessly":
                done = self._enqueue_needlessly(fault)
            case "command workers":
                done = self._command(fault)
            case _:
                done = self._faults.inflict(fault, self._calm)
        if done:
            self.seen.faults[fault.name] += 1
            self.seen.timeline.append((begun, time.time(), fault.name))

    def _outage(self) -> None:
        """Take the broker away for long while jobs are submitted."""
        if not self._calm.wait(OUTAGE_AFTER * len(self._plan.jobs) / self._pace):
            self._faults.broker_outage(self._plan.outage_seconds, self._calm)
            self.seen.faults[f"broker away for {self._plan.outage_seconds:g} s"] += 1

    def _enqueue_needlessly(self, fault: PlannedFault) -> bool:
        """Enqueue, twice each, jobs that have ended, that run, that wait already, and one that never existed."""
        chosen = self._choose(random.Random(fault.seconds))
        enqueued = self._world.enqueue([*chosen, "resp_never_was"] * 2)
        self.seen.needless_messages += [(job_id, time.time()) for job_id in chosen]
        return enqueued > 0

    def _command(self, fault: PlannedFault) -> bool:
        """Send all workers commands, and messages with time limits, about such jobs."""
        rng = random.Random(fault.seconds)
        chosen = self._choose(rng)
        is_received = strangers.limit(self._world.celery, chosen)
        self.seen.needless_messages += [(job_id, time.time()) for job_id in chosen]
        refusals, obeyed = strangers.command(self._world.celery, rng, chosen)
        self.seen.refusals += refusals
        self.seen.obeyed += obeyed
        return is_received or refusals > 0

    def _choose(self, rng: random.Random) -> list[str]:
        """Return some jobs that have ended, and some that have not."""
        pools = (list(self.seen.ends), self._clients.open_jobs())
        return [job_id for pool in pools for job_id in rng.sample(pool, min(NEEDLESS_MESSAGES, len(pool)))]

    def _supervise(self) -> None:
        while not self._over.wait(0.5):
            for name in self._world.supervise():
                self.seen.faults[f"{name} did not start"] += 1
