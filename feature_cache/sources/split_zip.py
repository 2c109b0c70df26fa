"""Zip archives that are split over several files: name.z01, name.z02, …, name.zip. The standard library reads one file.

Such an archive is its volumes one after the other, except that its directory counts from the start of a volume:
every entry has the number of its volume and an offset in there. Here the directory is written anew, in memory, with
offsets from the start of the first volume, and put behind the volumes, which are not copied. The format: PKWARE's
APPNOTE.TXT 6.3, sections 4.3 and 4.5.
"""

import bisect
import io
import re
import struct
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import IO

from feature_cache.errors import UserError

_ENTRY = struct.Struct("<4s6H3I5H2I")  # of the directory; then name, extra field, comment
_END = struct.Struct("<4s4H2IH")
_LOCATOR = struct.Struct("<4sIQI")  # of the 64-bit end
_END64 = struct.Struct("<4sQ2H2I4Q")
_LONGEST_END = _END.size + 0xFFFF
_ZIP64 = 1


class SplitZipError(UserError):
    """A split zip archive lacks a volume, or is not one."""


def volumes(last: Path) -> list[Path]:
    """The files of the archive whose last is `last`, in order; only itself if it is not split.

    Raises `SplitZipError` if one in between is missing.
    """
    numbered = {}
    for path in last.parent.glob(f"{_escaped(last.stem)}.z*"):
        if match := re.fullmatch(r"\.z(\d{2,})", path.suffix):
            numbered[int(match[1])] = path
    lost = sorted(set(range(1, max(numbered, default=0) + 1)) - set(numbered))
    if lost:
        raise SplitZipError(
            f"{last} is split over several files, and {last.stem}.z{lost[0]:02d} is missing. Fetch it too."
        )
    return [*(numbered[number] for number in sorted(numbered)), last]


def open_volumes(paths: Sequence[Path]) -> IO[bytes]:
    """The volumes as one file that `zipfile.ZipFile` reads. Raises `SplitZipError` if the directory is damaged."""
    sizes = [path.stat().st_size for path in paths]
    starts = [0, *accumulate(sizes)]
    with io.BufferedReader(_Joined([*paths])) as plain:
        directory, count = _directory(plain, starts)
    entries = b"".join(_moved(directory, starts[:-1], count, paths[-1]))
    return io.BufferedReader(_Joined([*paths, entries + _end(starts[-1], len(entries), count)]))


class _Joined(io.RawIOBase):
    """Files, and bytes, one after the other, to read only."""

    def __init__(self, pieces: Sequence[Path | bytes]) -> None:
        self._files = [io.BytesIO(piece) if isinstance(piece, bytes) else piece.open("rb") for piece in pieces]
        self._starts = [0, *accumulate(file.seek(0, io.SEEK_END) for file in self._files)]
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._starts[-1]}[whence]
        if base + offset < 0:
            raise ValueError(f"negative position {base + offset}")
        self._at = base + offset
        return self._at

    def readinto(self, buffer: "memoryview") -> int:  # type: ignore[override]
        if self._at >= self._starts[-1]:
            return 0
        index = bisect.bisect_right(self._starts, self._at) - 1
        file = self._files[index]
        file.seek(self._at - self._starts[index])
        count: int = file.readinto(memoryview(buffer)[: self._starts[index + 1] - self._at])
        self._at += count
        return count

    def close(self) -> None:
        for file in self._files:
            file.close()
        super().close()


def _directory(file: IO[bytes], starts: Sequence[int]) -> tuple[bytes, int]:
    """The archive's directory, and the number of its entries."""
    file.seek(-min(_LONGEST_END, starts[-1]), io.SEEK_END)
    tail_at = file.tell()
    tail = file.read()
    found = tail.rfind(b"PK\5\6")
    if found < 0 or len(tail) - found < _END.size:
        raise SplitZipError("The last of the files of a split zip archive has no directory; is it cut off?")
    _, _, disk, _, count, size, offset, _ = _END.unpack_from(tail, found)
    if 0xFFFF in (disk, count) or 0xFFFFFFFF in (size, offset):
        file.seek(tail_at + found - _LOCATOR.size)
        mark, disk, offset, _ = _LOCATOR.unpack(file.read(_LOCATOR.size))
        if mark != b"PK\6\7":
            raise SplitZipError("A split zip archive lacks its 64-bit directory; is its last file damaged?")
        file.seek(starts[disk] + offset)
        _, _, _, _, _, disk, _, count, size, offset = _END64.unpack(file.read(_END64.size))
    file.seek(starts[min(disk, len(starts) - 1)] + offset)
    return file.read(size), count


def _moved(directory: bytes, starts: Sequence[int], count: int, last: Path) -> Iterator[bytes]:
    """The entries with offsets from the start of the first volume, all in the 64-bit way."""
    at = 0
    for _ in range(count):
        if directory[at : at + 4] != b"PK\1\2" or len(directory) - at < _ENTRY.size:
            raise SplitZipError(f"The directory in {last} is damaged after {at} bytes. Fetch that file again.")
        values = list(_ENTRY.unpack_from(directory, at))
        lengths = values[10:13]
        name, extra, comment = _cut(directory, at + _ENTRY.size, lengths)
        packed, unpacked, disk, offset = values[8], values[9], values[13], values[16]
        packed, unpacked, offset, disk, rest = _widened(extra, packed, unpacked, offset, disk)
        if disk >= len(starts):
            raise SplitZipError(f"{last} says that it has {disk + 1} files or more, but {len(starts)} are there.")
        wide = struct.pack("<2H3Q", _ZIP64, 24, unpacked, packed, starts[disk] + offset)
        values[8] = values[9] = values[16] = 0xFFFFFFFF
        values[11], values[13] = len(wide + rest), 0
        yield _ENTRY.pack(*values) + name + wide + rest + comment
        at += _ENTRY.size + sum(lengths)


def _cut(data: bytes, at: int, lengths: Sequence[int]) -> Iterator[bytes]:
    for length in lengths:
        yield data[at : at + length]
        at += length


def _widened(extra: bytes, packed: int, unpacked: int, offset: int, disk: int) -> tuple[int, int, int, int, bytes]:
    """The four numbers, taken from the 64-bit field where they do not fit the entry; and the other fields."""
    rest, at = b"", 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == _ZIP64:
            field, where = extra[at + 4 : at + 4 + length], 0
            if unpacked == 0xFFFFFFFF:
                (unpacked,), where = struct.unpack_from("<Q", field, where), where + 8
            if packed == 0xFFFFFFFF:
                (packed,), where = struct.unpack_from("<Q", field, where), where + 8
            if offset == 0xFFFFFFFF:
                (offset,), where = struct.unpack_from("<Q", field, where), where + 8
            if disk == 0xFFFF:
                (disk,) = struct.unpack_from("<I", field, where)
        else:
            rest += extra[at : at + 4 + length]
        at += 4 + length
    return packed, unpacked, offset, disk, rest


def _end(offset: int, size: int, count: int) -> bytes:
    """What closes an archive of one file whose directory of `size` bytes starts at `offset`."""
    end64 = _END64.pack(b"PK\6\6", _END64.size - 12, 45, 45, 0, 0, count, count, size, offset)
    locator = _LOCATOR.pack(b"PK\6\7", 0, offset + size, 1)
    return end64 + locator + _END.pack(b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)


def _escaped(stem: str) -> str:
    return re.sub(r"([\[\]*?])", r"[\1]", stem)
