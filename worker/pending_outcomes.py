"""Outcomes of calls that are not recorded yet: in memory, and in files if recording takes long.

The files (mode 0600, in the data folder) hold answers. They are for a process that ends while the database does not
take them. The next start records them before anything else, and deletes them.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock, Thread
from time import monotonic, time
from typing import Any, Final

from pydantic import BaseModel, ConfigDict

from jobs.errors import Billed
from jobs.event_stream import Event as StreamEvent
from jobs.event_stream import Progress
from jobs.job import Answer
from jobs.outcome_files import ASIDE, FOLDER, SUFFIX, files_put_aside, unrecorded_files
from jobs.retry import RULES
from jobs.store.stream_events import Chunk
from jobs.telemetry import get_logger
from worker.live_stream import LiveOutput
from worker.outcome import EndedCall

LOOK_SECONDS: Final = 0.25
KEPT_AFTER_SECONDS: Final = 5.0
"""Seconds that recording may take before a file is written: more than a burst of outcomes needs."""
KEPT_AFTER_SECONDS_AT_SHUTDOWN: Final = 1.0
DRAFT: Final = ".draft"
DRAFT_SECONDS: Final = 60.0

log = get_logger(__name__)


@dataclass(frozen=True)
class LeftOver:
    """An outcome in a file, with the events of the stream that were not committed."""

    path: Path
    ended: EndedCall
    rest: Chunk | None

    def done(self) -> None:
        """Delete the file, as the outcome is recorded."""
        _try(self.path, lambda: self.path.unlink(missing_ok=True))

    def put_aside(self) -> None:
        """Rename the file, as this database or release cannot record it. The next start tries once more."""
        _put_aside(self.path)


class PendingOutcomes:
    """The outcomes that one worker process has not recorded yet. For use from any thread or greenlet."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._waiting: dict[str, _Waiting] = {}
        self._guard = Lock()
        self._kept_after = KEPT_AFTER_SECONDS
        self._stopping = Event()

    def __len__(self) -> int:
        """Return how many there are. They include only calls that may be billed."""
        return len(self._waiting)

    def late(self) -> int:
        """Return how many have waited for longer than recording usually takes."""
        before = monotonic() - KEPT_AFTER_SECONDS
        return sum(waiting.since <= before for waiting in list(self._waiting.values()))

    @contextmanager
    def until_recorded(self, ended: EndedCall, emitted: LiveOutput | None) -> Iterator[None]:
        """Run the block that records this outcome. If it breaks, the outcome is left as a file."""
        if not _may_be_paid(ended):
            yield
            return
        name = _name_of(ended.job.id, ended.attempt.number)
        self._waiting[name] = waiting = _Waiting(ended, emitted, monotonic())
        try:
            yield
        except BaseException:
            self._keep(name, waiting)
            del self._waiting[name]
            raise
        with self._guard:
            del self._waiting[name]
            if waiting.is_kept:
                path = self._path(name)
                _try(path, lambda: path.unlink(missing_ok=True))

    def start(self) -> None:
        """Begin to write files of outcomes that wait for long."""
        Thread(target=self._loop, daemon=True).start()

    def stop(self) -> None:
        """Write no more files."""
        self._stopping.set()

    def expect_kill(self) -> None:
        """Write files sooner, as the process is ending and may be killed at any time."""
        self._kept_after = KEPT_AFTER_SECONDS_AT_SHUTDOWN

    def keep(self, waiting_for: float) -> int:
        """Write a file of each that has waited for so many seconds. Return how many could not be written."""
        before = monotonic() - waiting_for
        due = [(name, waiting) for name, waiting in list(self._waiting.items()) if waiting.since <= before]
        return sum(not self._keep(name, waiting) for name, waiting in due if not waiting.is_kept)

    def left_over(self) -> Iterator[LeftOver]:
        """Yield what earlier processes have left. Files put aside are included: the database may be another now."""
        _drop_old_drafts(self._data_dir / FOLDER)
        for path in (*unrecorded_files(self._data_dir), *files_put_aside(self._data_dir)):
            left = _read(path)
            if left is not None:
                yield left

    def left_of(self, job_id: str, attempt: int) -> LeftOver | None:
        """Return the outcome of this call from its file. None if there is none."""
        return _read(self._path(_name_of(job_id, attempt)))

    def _loop(self) -> None:
        while not self._stopping.wait(LOOK_SECONDS):
            self.keep(self._kept_after)

    def _keep(self, name: str, waiting: "_Waiting") -> bool:
        try:
            content = _Kept.of(waiting).model_dump_json().encode()
            with self._guard:
                if name in self._waiting:
                    self._write(name, content)
                    waiting.is_kept = True
        except (OSError, ValueError) as error:
            if not waiting.is_logged:  # as a full disk may stay full
                log.warning("outcome not written to a file", job_id=waiting.ended.job.id, error=type(error).__name__)
            waiting.is_logged = True
            return False
        return True

    def _path(self, name: str) -> Path:
        return self._data_dir / FOLDER / f"{name}{SUFFIX}"

    def _write(self, name: str, content: bytes) -> None:
        path = self._path(name)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft = path.with_suffix(DRAFT)
        try:
            with open(draft, "wb", opener=_private) as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        except OSError:  # a part of an answer is useless, and takes space on a full disk
            draft.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)


@dataclass
class _Waiting:
    ended: EndedCall
    emitted: LiveOutput | None
    since: float
    is_kept: bool = False
    is_logged: bool = False


class _Kept(BaseModel):
    """The content of a file."""

    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")

    ended: EndedCall
    first_number: int | None = None
    events: list[dict[str, Any]] = []
    progress: list[Any] = []

    @classmethod
    def of(cls, waiting: _Waiting) -> "_Kept":
        """Return the content for an outcome."""
        rest = None if waiting.emitted is None else waiting.emitted.unwritten()
        if rest is None:
            return cls(ended=waiting.ended)
        events: list[StreamEvent] = list(rest.events)
        return cls(ended=waiting.ended, first_number=rest.number, events=events, progress=rest.progress.to_json())

    def left_at(self, path: Path) -> LeftOver:
        """Return the outcome that was read from `path`."""
        attempt = self.ended.attempt
        rest = None
        if self.first_number is not None:
            progress = Progress.from_json(self.progress)
            rest = Chunk(attempt.job_id, attempt.number, self.first_number, self.events, progress)
        return LeftOver(path, self.ended, rest)


def _name_of(job_id: str, attempt: int) -> str:
    return f"{job_id}-{attempt}"


def _read(path: Path) -> LeftOver | None:
    try:
        return _Kept.model_validate_json(path.read_bytes()).left_at(path)
    except FileNotFoundError:  # another worker with this folder has recorded it
        return None
    except (OSError, ValueError) as error:
        log.warning("outcome cannot be read", file=str(path), error=type(error).__name__)
        if isinstance(error, ValueError):  # other errors may be temporary
            _put_aside(path)
        return None


def _put_aside(path: Path) -> None:
    _try(path, lambda: path.replace(path.with_suffix(ASIDE)))


def _try(path: Path, change: Callable[[], object]) -> None:
    """Go on if a file cannot be deleted or renamed: recording it again changes nothing."""
    try:
        change()
    except OSError as error:
        log.warning("file cannot be deleted or renamed", file=str(path), error=type(error).__name__)


def _may_be_paid(ended: EndedCall) -> bool:
    result = ended.report.result
    return isinstance(result, Answer) or RULES[result.kind].billed is not Billed.NO


def _drop_old_drafts(folder: Path) -> None:
    """Delete the unfinished files of killed processes, which hold parts of answers."""
    for draft in folder.glob(f"*{DRAFT}"):
        with suppress(FileNotFoundError):
            if time() - draft.stat().st_mtime > DRAFT_SECONDS:  # younger ones may be in use by another worker
                _try(draft, draft.unlink)


def _sync_folder(folder: Path) -> None:
    """Make the name of a new file survive a loss of power."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
