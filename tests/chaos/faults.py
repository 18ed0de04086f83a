"""Faults of a plan: each is inflicted, and undone after its time."""

import random
import signal
import threading
import time
from contextlib import suppress
from datetime import timedelta
from typing import Final

import psutil
import psycopg
from redis.exceptions import RedisError

from tests.chaos import hosting, strangers
from tests.chaos.plan import PlannedFault
from tests.chaos.proxy import Proxy
from tests.chaos.world import BAD_KEY, Slot, World
from tests.support.postgres import StopMode
from tests.support.waiting import await_until

STEPS: Final = (20, 3_600, 7_200, 86_400)
"""Seconds by which a host's clock is set: some timeouts, a job's whole life, and more."""
LONG_FREEZE: Final = 10.0
LEAVE_SECONDS: Final = 90.0
"""For a worker that was told to stop: its grace, and what its records wait for while other faults go on."""
CAUGHT_WITHIN: Final = 4.0
IN_TRANSACTION: Final = (
    "SELECT client_port FROM pg_stat_activity WHERE application_name = 'backburner'"
    " AND state = 'idle in transaction' AND backend_xid IS NOT NULL"
)
TIME_LIMITS: Final = ("--time-limit", "1", "--soft-time-limit", "1")


class Faults:
    """Inflicts faults on a world, several at once."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._servers_busy = threading.Lock()
        self._provider_busy = threading.Lock()
        self._clocks_busy = threading.Lock()

    def inflict(self, fault: PlannedFault, wait: threading.Event) -> bool:
        """Inflict the fault and undo it after its time, or when `wait` returns; False if its target is already hurt."""
        world = self._world
        verb, what = fault.name.split()
        if verb == "set":
            return self._set_clocks(what, fault, wait)
        if what in ("worker", "api"):
            slots = world.workers if what == "worker" else world.apis
            return self._hurt_process(slots[fault.target % len(slots)], verb, fault, wait)
        match verb:
            case "lock":
                return self._lock(what, fault, wait)
            case "cut" | "stall" | "silence":
                return self._hurt_link(world.links[what], verb, fault, wait)
            case "refuse":
                return self._turn_us_away(what, fault.seconds, wait)
            case "litter":
                return strangers.litter(world.valkey, random.Random(fault.seconds))
            case "mistype":
                return self._mistype(fault.seconds, wait)
            case "demote" | "fill" | "relock":
                return self._take_no_writes(verb, what, fault.seconds, wait)
            case "lose" | "overload":
                return self._take_no_calls(verb, fault.seconds, wait)
        return self._hurt_server(fault, wait)

    def broker_outage(self, seconds: float, wait: threading.Event) -> None:
        """Take the broker away for long, whatever else goes on."""
        with self._servers_busy, self._world.window("broker"):
            self._world.valkey.stop()
            wait.wait(seconds)
            self._world.valkey.start()

    def _hurt_process(self, slot: Slot, verb: str, fault: PlannedFault, wait: threading.Event) -> bool:
        if not slot.busy.acquire(blocking=False):
            return False
        try:
            match verb:
                case "freeze":
                    return self._freeze(slot, fault.seconds, wait)
                case "suspend":
                    return self._freeze(slot, LONG_FREEZE + fault.seconds, wait)
                case "catch":
                    return self._freeze_in_a_transaction(slot, fault.seconds, wait)
                case "interrupt":
                    return self._stop_under_a_lock(slot, fault, wait)
                case "kill":
                    self._world.deaths[slot.process.popen.pid] = time.time()
                    slot.process.kill()
                case _:
                    slot.process.signal(signal.SIGTERM)
                    self._await_end(slot)
            wait.wait(min(fault.seconds, 1))
            slot.start(*(TIME_LIMITS if verb == "limit" else ()))
            return True
        finally:
            slot.busy.release()

    def _freeze(self, slot: Slot, seconds: float, wait: threading.Event) -> bool:
        with self._world.frozen(slot):
            wait.wait(seconds)
        return True

    def _freeze_in_a_transaction(self, slot: Slot, seconds: float, wait: threading.Event) -> bool:
        """Freeze a worker while it holds locks, if that can be arranged soon."""
        until = time.monotonic() + CAUGHT_WITHIN
        with suppress(psycopg.OperationalError), self._world.operator() as operator:
            while time.monotonic() < until and not wait.wait(0.02):
                with self._world.frozen(slot):
                    wait.wait(0.01)  # what was asked is answered by then
                    ports = {int(row[0]) for row in operator.execute(IN_TRANSACTION)}
                    if self._world.links["database"].near_ports(ports) & _ports(slot):
                        wait.wait(seconds)
                        return True
        return False

    def _stop_under_a_lock(self, slot: Slot, fault: PlannedFault, wait: threading.Event) -> bool:
        """Stop a worker while its jobs' rows are locked: it must keep each outcome until it can record it."""
        rng = random.Random(fault.seconds)
        reported = rng.choice((signal.SIGINT, signal.SIGTERM))
        is_reported = False
        with (
            suppress(psycopg.OperationalError),  # the database is away, or went away with the lock
            self._world.locker.holding("calls", rng, pid=slot.process.popen.pid) as held,
        ):
            if held.rows:
                slot.process.signal(reported)
                is_reported = True
                held.stay(2 * fault.seconds, wait, is_busy=rng.random() < 0.5)
        if is_reported:
            self._await_end(slot)
            slot.start()
        return is_reported

    def _await_end(self, slot: Slot) -> None:
        """Let the worker end by itself: everything that it held must be recorded.

        Raises:
            AssertionError: it did not end, or not cleanly.
        """
        process = slot.process
        await_until(lambda: process.popen.poll() is not None, LEAVE_SECONDS, lambda: _never_left(slot))
        status = process.stop()
        assert not slot.has_begun or status in (0, 1), f"a {slot.name} left with {status}:\n{process.output[-20_000:]}"

    def _lock(self, what: str, fault: PlannedFault, wait: threading.Event) -> bool:
        rng = random.Random(fault.seconds)
        key = self._world.tenants[fault.target % len(self._world.tenants)].key_id
        with (
            suppress(psycopg.OperationalError),  # it ended with the database
            self._world.locker.holding(what, rng, key=key) as held,
        ):
            held.stay(2 * fault.seconds, wait, is_busy=rng.random() < 0.5)
            return bool(held.rows)
        return False

    def _hurt_link(self, link: Proxy, verb: str, fault: PlannedFault, wait: threading.Event) -> bool:
        with self._world.window(link.name):
            if verb == "cut":
                link.cut(fault.share, random.Random(fault.seconds))
                return True
            link.stall()
            wait.wait(min(fault.seconds, 4))
            if verb == "silence":
                link.silence()
            link.flow()
            return True

    def _turn_us_away(self, why: str, seconds: float, wait: threading.Event) -> bool:
        """Let the provider refuse our key, or our account for lack of credit."""
        if not self._provider_busy.acquire(blocking=False):
            return False
        try:
            with self._world.window("provider_limit"):
                bad_keys = [BAD_KEY, self._world.provider_key]
                self._world.change_provider(**({"bad_keys": bad_keys} if why == "key" else {"balance": 0}))
                wait.wait(min(seconds, 4))
                self._world.change_provider(bad_keys=[BAD_KEY], balance=None)
        finally:
            self._provider_busy.release()
        return True

    def _mistype(self, seconds: float, wait: threading.Event) -> bool:
        with self._world.window("broker"):
            done = strangers.mistype(self._world.valkey)
            if done:
                wait.wait(min(seconds, 3))
                strangers.put_right(self._world.valkey)
        return done

    def _set_clocks(self, whose: str, fault: PlannedFault, wait: threading.Event) -> bool:
        """Set the clock of one process's host, or of all, twice, and then set it right."""
        world = self._world
        slots = {"worker": world.workers, "api": world.apis}.get(whose)
        hurt = [*world.workers, *world.apis] if slots is None else [slots[fault.target % len(slots)]]
        clocks = [slot.clock for slot in hurt if slot.clock is not None]
        if not clocks or not self._clocks_busy.acquire(blocking=False):
            return False
        rng = random.Random(fault.seconds)
        try:
            for _ in range(2):
                ahead = rng.choice((-1, 1)) * timedelta(seconds=rng.choice(STEPS))
                for clock in clocks:
                    clock.set(ahead)
                wait.wait(fault.seconds)
            for clock in clocks:
                clock.set(timedelta(0))
        finally:
            self._clocks_busy.release()
        return True

    def _take_no_writes(self, verb: str, what: str, seconds: float, wait: threading.Event) -> bool:
        """Let a server answer but take no writes, as hosted ones do."""
        if not self._servers_busy.acquire(blocking=False):
            return False
        world = self._world
        hurt = hosting.demoted(world.postgres) if what == "database" else hosting.BROKER[verb](world.valkey)
        try:
            with world.window(what), hurt:
                wait.wait(seconds)
        finally:
            self._servers_busy.release()
        return True

    def _take_no_calls(self, verb: str, seconds: float, wait: threading.Event) -> bool:
        if not self._provider_busy.acquire(blocking=False):
            return False
        try:
            hurt = hosting.lost(self._world) if verb == "lose" else hosting.overloaded(self._world)
            with self._world.window("provider"), hurt:
                wait.wait(2 * seconds)
        finally:
            self._provider_busy.release()
        return True

    def _hurt_server(self, fault: PlannedFault, wait: threading.Event) -> bool:
        world = self._world
        if fault.name == "flush broker":
            try:
                with world.window("broker"):
                    world.valkey.flush()
            except RedisError:  # it is away
                return False
            return True
        if not self._servers_busy.acquire(blocking=False):
            return False
        what = fault.name.split()[1]
        server = world.valkey if what == "broker" else world.postgres
        try:
            with world.window(what):
                server.stop(StopMode.IMMEDIATE.value if fault.name == "crash database" else None)
                wait.wait(min(fault.seconds, 3))
                server.start()
        finally:
            self._servers_busy.release()
        return True


def _ports(slot: Slot) -> set[int]:
    try:
        return {each.laddr.port for each in psutil.Process(slot.process.popen.pid).net_connections("tcp") if each.laddr}
    except psutil.NoSuchProcess:
        return set()


def _never_left(slot: Slot) -> str:
    return f"a {slot.name} that was told to stop did not end:\n{slot.process.output[-20_000:]}"
