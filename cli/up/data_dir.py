"""The data directory of `up`: private, locked by one supervisor at a time, and the place of its generated keys."""

import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cli.errors import CommandFailed
from cli.server_address import KEY_FILE, read_secret
from jobs.encryption import generate_key
from jobs.store.api_keys import generate_secret

ENCRYPTION_KEY_FILE = "encryption_key"
LOCK_FILE = "up.lock"


@contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Create the directory if necessary and lock it during the block.

    Yield whether the last supervisor was killed: its children may take a moment longer to end. The kernel releases the
    lock when the process ends, even after SIGKILL.

    Raises:
        CommandFailed: the directory cannot be written to, or another supervisor has locked it.
    """
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _unwritable(path, error) from None
    with os.fdopen(descriptor, "r+", encoding="ascii") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = lock.read().strip() or "unknown"
            raise CommandFailed(
                f"BACKBURNER_DATA_DIR: another `backburner up` (pid {owner}) already runs on {path};"
                " stop it first, or choose another directory"
            ) from None
        except OSError as error:
            raise _unwritable(path, error) from None
        was_killed = bool(lock.read().strip())
        _write(lock.fileno(), f"{os.getpid()}\n")
        try:
            yield was_killed
        finally:
            _write(lock.fileno(), "")


def ensure_api_key(path: Path) -> str:
    """Return the API key in the directory's `api_key` file. The first call generates it, readable by its owner only.

    Raises:
        CommandFailed: the file can be neither read nor written.
    """
    return _ensure_secret(path / KEY_FILE, generate_secret)


def ensure_encryption_key(path: Path) -> str:
    """Return the key in the directory's `encryption_key` file, which encrypts webhook secrets. Made in the same way.

    Raises:
        CommandFailed: the file can be neither read nor written.
    """
    return _ensure_secret(path / ENCRYPTION_KEY_FILE, generate_key)


def _ensure_secret(file: Path, generate: Callable[[], str]) -> str:
    try:
        if (existing := read_secret(file)) is not None:
            file.chmod(0o600)
            return existing
        secret = generate()
        descriptor, draft = tempfile.mkstemp(prefix=f".{file.name}-", dir=file.parent)  # made with mode 0600
        with os.fdopen(descriptor, "w", encoding="ascii") as opened:
            opened.write(secret)
        Path(draft).replace(file)
    except OSError as error:
        raise _unwritable(file, error) from None
    return secret


def _write(descriptor: int, text: str) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, text.encode("ascii"), 0)


def _unwritable(path: Path, error: OSError) -> CommandFailed:
    return CommandFailed(f"BACKBURNER_DATA_DIR: cannot write to {path}: {error.strerror or error}")
