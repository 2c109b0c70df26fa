"""Brings a dataset from its origin into its layout. A run can be killed at any point; the next one goes on from there.

Files arrive in the hidden folder `.download` of the dataset's folder and are verified there. Plain files are then
moved to their place. Archives are unpacked, get a stamp that says so, and are deleted. What has its stamp, or is in its
place, is not fetched again.
"""

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from feature_cache.atomic import write_atomically
from feature_cache.downloading import DownloadError, download
from feature_cache.errors import UserError
from feature_cache.registry import resolve
from feature_cache.sources.plan import Checksum, Part, Step, steps
from feature_cache.sources.provenance import GB, Hub, Manual, Provenance

SCRATCH = ".download"
THREADS = 4
"""Plain files that are fetched at the same time; there may be thousands of small ones."""


class ManualStepsError(UserError):
    """A person has to fetch something first; the message says how."""


class Progress(Protocol):
    """Who wants to know how far it is."""

    def fetched(self, part: Part, done: int, total: int | None) -> None:
        """So many bytes of a file are there."""

    def unpacked(self, part: Part, done: int, total: int) -> None:
        """So many bytes of an archive are unpacked."""


@dataclass(frozen=True)
class Work:
    """What is still to be done for a dataset.

    Attributes:
        todo: the steps that are not finished.
        done: how many are.
    """

    todo: tuple[Step, ...]
    done: int

    @property
    def size(self) -> int:
        """Bytes of what has to be fetched, as far as they are known."""
        return sum(step.size for step in self.todo)


def plan(source: Provenance, data_root: Path) -> Work:
    """What is to be done. Asks the hub, if the dataset comes from there.

    Raises `ManualStepsError` if a person has to fetch the archive first, `HubError` if the hub does not answer.
    """
    folder = source.path(data_root)
    everything = steps(_parts(source, folder))
    todo = tuple(step for step in everything if not _is_done(step, folder))
    return Work(todo, len(everything) - len(todo))


def _parts(source: Provenance, folder: Path) -> Sequence[Part]:
    if isinstance(source.origin, Hub):
        from feature_cache.sources.hub import hub_parts

        return hub_parts(source.origin)
    if isinstance(source.origin, Manual):
        archive = folder / source.origin.archive
        if not archive.is_file():
            raise ManualStepsError(manual_steps(source, folder))
        return [Part(source.origin.archive, None, archive.stat().st_size)]
    return [Part(file.path, file.url, None, (file.md5 and Checksum("md5", file.md5)) or None) for file in source.origin]


def manual_steps(source: Provenance, folder: Path) -> str:
    """What a person has to do, numbered."""
    assert isinstance(source.origin, Manual)
    numbered = (f"  {index}. {step.format(folder=folder)}" for index, step in enumerate(source.origin.steps, 1))
    return "\n".join([f"{source.name} cannot be fetched without a person:", *numbered])


def check_space(source: Provenance, work: Work, data_root: Path, keep_archives: bool) -> None:
    """Raises `UserError` if the disk is too small for what is still to come."""
    folder = source.path(data_root)
    archives = [step.size for step in work.todo if step.unpack]
    beside = sum(archives) if keep_archives else max(archives, default=0)
    if 0 in archives:  # of an unknown size
        beside = max(beside, source.download_size or 0)
    needed = (source.disk_size or work.size) + beside - _bytes_in(folder)
    free = shutil.disk_usage(_existing(folder)).free
    if needed > free:
        raise UserError(
            f"{source.name} needs about {needed / GB:.1f} GB more in {folder}, the archives that are being unpacked "
            f"included, but {free / GB:.1f} GB are free. Make space, or choose another --data_root."
        )


def fetch(source: Provenance, data_root: Path, work: Work, keep_archives: bool, progress: Progress) -> None:
    """Does the work, step by step.

    Raises `UserError` if a file cannot be fetched, is not what it should be or cannot be unpacked; what is finished
    stays, and the next call goes on.
    """
    folder = source.path(data_root)
    scratch = folder / SCRATCH
    try:
        scratch.mkdir(parents=True, exist_ok=True)
        with _alone(scratch):
            _fetch_plain([step.main for step in work.todo if not step.unpack], folder, progress)
            for step in work.todo:
                if step.unpack:
                    _fetch_archive(source, step, folder, keep_archives, progress)
    except OSError as error:
        raise UserError(_disk_trouble(error, folder)) from error


def _fetch_plain(parts: Sequence[Part], folder: Path, progress: Progress) -> None:
    stoppable = _Stoppable(progress)
    with ThreadPoolExecutor(THREADS) as pool:
        try:
            for _ in pool.map(lambda part: _move_into_place(part, folder, stoppable), parts):
                pass
        except BaseException:
            stoppable.stopped = True  # else leaving the pool waits for whole files
            pool.shutdown(wait=False, cancel_futures=True)
            raise


class _Stoppable:
    """Passes progress on until it is stopped, and then ends whoever reports any."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self.stopped = False

    def fetched(self, part: Part, done: int, total: int | None) -> None:
        if self.stopped:
            raise InterruptedError("stopped")
        self._progress.fetched(part, done, total)

    def unpacked(self, part: Part, done: int, total: int) -> None:
        self._progress.unpacked(part, done, total)


def _move_into_place(part: Part, folder: Path, progress: Progress) -> None:
    arrived = _fetch_part(part, folder, progress)
    target = _below(folder, part)
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(arrived, target)


def _fetch_archive(source: Provenance, step: Step, folder: Path, keep: bool, progress: Progress) -> None:
    arrived = {part: _fetch_part(part, folder, progress) for part in step.parts}
    prepare = resolve({source.name: source.prepare}, "dataset", source.name)
    prepare(arrived[step.main], folder, lambda done, total: progress.unpacked(step.main, done, total))
    stamp = _stamp(step, folder)
    stamp.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(stamp, _signature(step).encode())
    for part, path in arrived.items():
        if not keep and part.url is not None:
            path.unlink()


def _fetch_part(part: Part, folder: Path, progress: Progress) -> Path:
    """Fetches one file into the scratch folder, verified; returns its path."""
    if part.url is None:
        return _below(folder, part)
    target = _below(folder / SCRATCH, part)
    known = part.checksum if part.checksum and part.checksum.algorithm != "sha256" else None
    sha256 = part.checksum.value if part.checksum and not known else None
    download(part.url, target, sha256, part.size, lambda done, total: progress.fetched(part, done, total))
    if known and (found := known.of(target)) != known.value:
        target.unlink()
        raise DownloadError(
            f"{part.url} is not what it should be: its {known.algorithm} is {found}, expected {known.value}. What was "
            "fetched has been deleted; give the same command again."
        )
    return target


def _is_done(step: Step, folder: Path) -> bool:
    if step.unpack:
        stamp = _stamp(step, folder)
        return stamp.is_file() and stamp.read_text() == _signature(step)
    path = _below(folder, step.main)
    return path.is_file() and (step.main.size is None or path.stat().st_size == step.main.size)


def _stamp(step: Step, folder: Path) -> Path:
    path = _below(folder / SCRATCH, step.main)
    return path.with_name(f"{path.name}.done")


def _signature(step: Step) -> str:
    """What tells these files from others of the same name."""
    return "\n".join(f"{part.path} {part.checksum.value if part.checksum else part.size}" for part in step.parts)


def _below(folder: Path, part: Part) -> Path:
    """Raises `UserError` for a path, which a server may have sent, that leaves the folder."""
    if part.path.startswith("/") or ".." in part.path.split("/"):
        raise UserError(f"The server wants to write to {part.path!r}, outside of {folder}. Nothing was written there.")
    return folder / part.path


@contextmanager
def _alone(scratch: Path) -> Iterator[None]:
    """Keeps a second process out of the same dataset."""
    with (scratch / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"Another process is fetching into {scratch.parent}. Wait for it, or stop it.") from None
        except OSError as error:  # file systems without locks; there it is up to the user
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                raise
        yield


def _existing(folder: Path) -> Path:
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if path.exists())


def _bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _disk_trouble(error: OSError, folder: Path) -> str:
    what = "the disk is full" if error.errno == errno.ENOSPC else error.strerror or str(error)
    return (
        f"{error.filename or folder}: {what}. Put that right, or choose another --data_root; the same command goes on "
        "where it was."
    )
