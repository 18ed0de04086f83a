"""The resource that a process lacks, recognised by an exception, and the slots that remain."""

import errno
import resource
import socket
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from threading import Timer

import httpcore
import pytest

from jobs.resource_shortage import once_it_fits, shortage_of
from jobs.store.database import Database
from tests.support.records import an_attempt
from worker.capacity import Capacity
from worker.in_flight import InFlightCalls
from worker.provider.call_handle import CallHandle
from worker.registration import WorkerRegistration


def raised_from(cause: BaseException) -> Exception:
    error = httpcore.ConnectError("a connection failed")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("cause", "what"),
    [
        (OSError(errno.EMFILE, "x"), "too many open files"),
        (OSError(errno.ENFILE, "x"), "too many open files in system"),
        (OSError(errno.ENOMEM, "x"), "cannot allocate memory"),
        (MemoryError(), "cannot allocate memory"),
        (RuntimeError("can't start new thread"), "no more threads"),
        (OSError(errno.ECONNREFUSED, "x"), None),
        (socket.gaierror(socket.EAI_NONAME, "x"), None),
        (RuntimeError("x"), None),
    ],
)
def test_a_shortage_is_recognised(cause: BaseException, what: str | None) -> None:
    assert shortage_of(raised_from(cause)) == what


def test_a_name_that_is_not_resolved_for_lack_of_files() -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        found = shortage_of(raised_from(socket.gaierror(socket.EAI_AGAIN, "x")))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert found == "too many open files"


def test_a_write_that_lacks_room_is_done_once_there_is_some() -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    later = Timer(0.2, resource.setrlimit, (resource.RLIMIT_NOFILE, limits))
    later.start()
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    assert once_it_fits(Path("/proc/self/comm").read_text)
    later.join()
    with pytest.raises(FileNotFoundError):  # no shortage
        once_it_fits(Path("/proc/self/none").read_text)


@pytest.fixture
def registration(tmp_path: pytest.TempPathFactory) -> Iterator[WorkerRegistration]:
    database = Database(f"sqlite:///{tmp_path}/unused.db")
    yield WorkerRegistration(database, 100)
    database.close()


@pytest.mark.parametrize(
    ("limit", "slots"), [(resource.RLIM_INFINITY, 100), (1024, 100), (160, 96), (100, 36), (30, 1)]
)
def test_no_more_slots_than_files(registration: WorkerRegistration, limit: int, slots: int) -> None:
    emitted: list[int] = []
    Capacity(registration, InFlightCalls(on_end=lambda: None)).begin(100, limit, emitted.append)
    assert (registration.concurrency, emitted) == (slots, [slots])
    assert (registration.short_of is None) is (slots == 100)


def test_a_shortage_leaves_the_slots_that_found_room(registration: WorkerRegistration) -> None:
    calls = InFlightCalls(on_end=lambda: None)
    capacity = Capacity(registration, calls)
    capacity.begin(100, resource.RLIM_INFINITY, lambda _slots: None)
    for number in range(60):
        handle = CallHandle()
        if number < 40:
            handle.trace("http11.send_request_headers.started", {"request": httpcore.Request("POST", "https://host/")})
        calls.begin(an_attempt(f"resp_{number}", 1), handle, timedelta(minutes=1))
    capacity.short_of("too many open files")
    capacity.short_of("too many open files")  # every call without room reports it
    assert (registration.concurrency, registration.short_of) == (36, "too many open files")
    assert not capacity.has_room(0)  # for a moment, as another try at once would fail too


def test_slots_are_raised_faster_the_longer_there_is_no_shortage(
    registration: WorkerRegistration, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shortage of seconds that another process caused does not leave one slot for half an hour."""
    emitted: list[int] = []
    capacity = Capacity(registration, InFlightCalls(on_end=lambda: None))
    capacity.begin(100, resource.RLIM_INFINITY, emitted.append)
    monkeypatch.setattr("worker.capacity.RAISED_EVERY", 0.0)
    capacity.short_of("too many open files")
    for _ in range(8):
        capacity.has_room(0)
    assert emitted == [100, 1, 2, 3, 4, 7, 18, 75, 100]
    assert registration.short_of is None
