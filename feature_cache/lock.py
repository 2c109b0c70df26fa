"""Locks between processes that share a folder. The kernel drops those of the dead: none has to be broken by hand.

A lock is a file on which somebody has called flock; it is removed when it is released. Where there is no flock
(Windows, some network file systems) nothing is locked, and two runs at once are the user's to avoid.
"""

import errno
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from feature_cache.errors import UserError

try:
    import fcntl
except ImportError:
    fcntl = None  # type: ignore[assignment]

GATE = "extraction.lock"
"""Held only for moments: while runs come and go, and while one of them finishes the cache."""


class LockedError(UserError):
    """Another process is making the cache."""


@dataclass(frozen=True)
class Share:
    """Which shards a run makes: those whose running number leaves `index` when divided by `count`."""

    index: int = 0
    count: int = 1

    def __contains__(self, number: int) -> bool:
        """
        >>> [number for number in range(7) if number in Share(1, 3)]
        [1, 4]
        """
        return number % self.count == self.index

    @property
    def lock_name(self) -> str:
        return f"extraction-{self.index}-of-{self.count}.lock"


@contextmanager
def running(folder: Path, share: Share, work: str = "") -> Iterator[None]:
    """One run per share of a cache, and only shares of the same division of the same work at once; makes the folder.

    Raises `LockedError`, which says who has it, at once.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if fcntl is None:
        yield
        return
    path = folder / share.lock_name
    with gate(folder):
        _refuse_rivals(folder, share, work)
        lock = _lock(path, wait=False)
        if lock is None:
            raise _locked(path)
        _sign(lock, work)
    try:
        yield
    finally:
        _release(path, lock)


@contextmanager
def gate(folder: Path) -> Iterator[None]:
    """Waits until no other process is in here with the same folder."""
    with held(folder / GATE):
        yield


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Locks a file, made if it is not there, after waiting for it; does not remove it if it was renamed meanwhile."""
    if fcntl is None:  # Windows, where an open file cannot be renamed
        yield
        return
    lock = _lock(path, wait=True)
    assert lock is not None
    try:
        yield
    finally:
        _release(path, lock)


@contextmanager
def held_if_free(path: Path) -> Iterator[bool]:
    """Locks a file as `held` does, but without waiting: says whether it is ours."""
    if fcntl is None:
        yield True
        return
    lock = _lock(path, wait=False)
    try:
        yield lock is not None
    finally:
        if lock is not None:
            _release(path, lock)


def remove_if_unlocked(path: Path) -> bool:
    """Removes a file unless a living process has locked it; says whether it did."""
    if fcntl is None:
        with suppress(OSError):  # Windows removes no file that is open
            path.unlink()
        return not path.exists()
    lock = _lock(path, wait=False)
    if lock is not None:
        _release(path, lock)
    return lock is not None


def _refuse_rivals(folder: Path, share: Share, work: str) -> None:
    """Removes the locks of the dead; of the living, only another share of the same may be there."""
    for path in sorted(folder.glob("extraction-*-of-*.lock")):
        if remove_if_unlocked(path):
            continue
        if not path.name.endswith(f"-of-{share.count}.lock") or path.name == share.lock_name:
            raise _locked(path)
        if _signature(path).get("work", work) != work:
            raise LockedError(
                f"The cache {folder} is being made by {_who(path)} ({path.name}), but not as this run would make it: "
                "all --shard runs need the same --data_root with the same media, and the same flags."
            )


def _lock(path: Path, wait: bool) -> int | None:
    """A descriptor that has the file locked; None if another process has it and `wait` is off."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        if not _flock(descriptor, wait):
            os.close(descriptor)
            return None
        if _is_still(path, descriptor):
            return descriptor
        os.close(descriptor)  # whoever had it before has removed it: lock the file that is there now


def _flock(descriptor: int, wait: bool) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        return error.errno not in (errno.EWOULDBLOCK, errno.EACCES)  # else this file system has no locks
    return True


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _release(path: Path, descriptor: int) -> None:
    """Removed while it is still locked: whoever waits for it then sees that it is gone, and makes a new one."""
    if _is_still(path, descriptor):
        with suppress(OSError):
            path.unlink()
    os.close(descriptor)


def _sign(descriptor: int, work: str) -> None:
    since = datetime.now().astimezone().isoformat(" ", "seconds")
    text = json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since, "work": work})
    with suppress(OSError):  # a full disk locks as well as any
        os.ftruncate(descriptor, 0)
        os.write(descriptor, text.encode())


def _signature(path: Path) -> dict[str, str]:
    """What `_sign` wrote; empty where the disk was full, or the owner has just left."""
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return {}


def _who(path: Path) -> str:
    try:
        return "process {pid} on {host} since {since}".format(**_signature(path))
    except LookupError:
        return "another process"


def _locked(path: Path) -> LockedError:
    return LockedError(
        f"The cache {path.parent} is being made by {_who(path)} ({path.name}). Wait until it ends or stop it, then "
        "give the same command again; several runs can share the work of one cache with --shard=0/N to --shard=N-1/N."
    )
