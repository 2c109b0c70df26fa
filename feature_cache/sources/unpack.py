"""Unpacks zip, tar and 7z archives member by member, so that a killed run goes on and no half file looks whole.

Nothing in an archive is believed: only regular files are written, at paths below the folder; a member that would land
elsewhere, or is a link or a device, ends the unpacking with an error.
"""

import lzma
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import IO

from feature_cache.errors import UserError
from feature_cache.sources.split_zip import open_volumes, volumes

Progress = Callable[[int, int], None]
"""Called with the bytes that are done and the bytes of the whole archive."""

Place = Callable[[PurePosixPath], PurePosixPath | None]
"""Where a member goes, below the folder; None = nowhere."""

_BLOCK = 1 << 20
_RETRY = "delete it and give the same command again"


class UnpackError(UserError):
    """An archive is damaged, of an unknown kind, or would write outside of its folder."""


def unpack(archive: Path, folder: Path, progress: Progress, place: Place = lambda path: path) -> None:
    """Unpacks an archive into a folder; members that are there already, in full length, are passed over.

    Args:
        archive: .zip (the last file, if it is split), .tar, .tar.gz or the like, .7z.
        progress: called after every member.
        place: where members go, to rename them or leave some out.

    Raises `UnpackError` as the module says, `OSError` if the disk is full or closed.
    """
    try:
        _by_kind(archive)(archive, folder, progress, place)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError) as error:
        raise UnpackError(f"{archive} cannot be unpacked ({type(error).__name__}: {error}): {_RETRY}.") from error


def _by_kind(archive: Path) -> Callable[[Path, Path, Progress, Place], None]:
    suffixes = archive.suffixes
    if archive.suffix == ".zip":
        return _unpack_zip
    if archive.suffix in (".tar", ".tgz") or suffixes[-2:-1] == [".tar"]:
        return _unpack_tar
    if archive.suffix == ".7z":
        return _unpack_7z
    advice = "unpack it there by hand, for example with unrar" if archive.suffix == ".rar" else "unpack it by hand"
    raise UnpackError(f"{archive} is no zip, tar or 7z archive: {advice}.")


def _unpack_zip(archive: Path, folder: Path, progress: Progress, place: Place) -> None:
    paths = volumes(archive)
    source: Path | IO[bytes] = archive if len(paths) == 1 else open_volumes(paths)
    with zipfile.ZipFile(source) as opened:
        members = [member for member in opened.infolist() if not member.is_dir()]
        total = sum(member.compress_size for member in members)
        done = 0
        for member in members:
            _refuse_unless(not stat.S_ISLNK(member.external_attr >> 16), archive, member.filename)
            target = _target(archive, folder, member.filename, place)
            if target and not _is_there(target, member.file_size):
                with opened.open(member) as content:
                    write(content, target)
            done += member.compress_size
            progress(done, total)
    if not isinstance(source, Path):
        source.close()


def _unpack_tar(archive: Path, folder: Path, progress: Progress, place: Place) -> None:
    total = archive.stat().st_size
    with archive.open("rb") as raw, tarfile.open(fileobj=raw) as opened:
        for member in opened:
            if not member.isdir():
                _refuse_unless(member.isfile(), archive, member.name)
                target = _target(archive, folder, member.name, place)
                content = opened.extractfile(member)
                if target and content and not _is_there(target, member.size):
                    write(content, target)
            progress(min(raw.tell(), total), total)


def _unpack_7z(archive: Path, folder: Path, progress: Progress, place: Place) -> None:
    """By way of a folder beside the archive: members of a 7z archive share one stream, and are unpacked together."""
    import py7zr

    scratch = archive.with_name(f"{archive.name}.unpacked")
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        with py7zr.SevenZipFile(archive) as opened:
            members = [member for member in opened.files if not member.is_directory]
            total = sum(member.uncompressed for member in members)
            for member in members:
                _refuse_unless(not (member.is_symlink or member.is_junction), archive, member.filename)
            targets = {member.filename: _target(archive, folder, member.filename, place) for member in members}
            if all(not (path := targets[m.filename]) or _is_there(path, m.uncompressed) for m in members):
                return
            opened.extractall(scratch, callback=_callback(progress, total))
    except (py7zr.exceptions.ArchiveError, py7zr.exceptions.CrcError, ValueError) as error:
        raise UnpackError(f"{archive} cannot be unpacked ({type(error).__name__}: {error}): {_RETRY}.") from error
    for name, target in sorted(targets.items()):
        if target:
            target.parent.mkdir(parents=True, exist_ok=True)
            _flush(scratch / name)
            os.replace(scratch / name, target)
    shutil.rmtree(scratch)


def _callback(progress: Progress, total: int) -> object:
    """What py7zr calls while it unpacks."""
    from py7zr.callbacks import ExtractCallback

    class Callback(ExtractCallback):  # type: ignore[misc, unused-ignore]
        done = 0

        def report_update(self, decompressed_bytes: str) -> None:
            self.done += int(decompressed_bytes)
            progress(min(self.done, total), total)

        def report_start_preparation(self) -> None: ...
        def report_start(self, processing_file_path: str, processing_bytes: str) -> None: ...
        def report_end(self, processing_file_path: str, wrote_bytes: str) -> None: ...
        def report_warning(self, message: str) -> None: ...
        def report_postprocess(self) -> None: ...

    return Callback()


def _refuse_unless(allowed: bool, archive: Path, name: str) -> None:
    if not allowed:
        raise UnpackError(f"{archive} has a link or a device in it, {name!r}, and is not unpacked further.")


def _target(archive: Path, folder: Path, name: str, place: Place) -> Path | None:
    """Where a member is written. Raises `UnpackError` for one that would leave the folder."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in path.parts[0] or "\0" in name:
        raise UnpackError(f"{archive} wants to write outside of its folder, to {name!r}, and is not unpacked further.")
    where = place(path)
    return folder / where if where else None


def _is_there(target: Path, size: int) -> bool:
    return target.is_file() and target.stat().st_size == size


def write(content: IO[bytes], target: Path) -> None:
    """Writes a file that appears whole or not at all, beside whose name a killed run leaves a hidden ".part"."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    with part.open("wb") as file:
        shutil.copyfileobj(content, file, _BLOCK)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, target)


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
