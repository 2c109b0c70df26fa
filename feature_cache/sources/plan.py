"""From nothing to a dataset's layout: which files to fetch, and what to do with them."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

_ARCHIVE = re.compile(r"\.(zip|z\d\d+|7z|rar|tgz|tar|tar\.\w+)$")


@dataclass(frozen=True)
class Checksum:
    """What a file's bytes add up to.

    Attributes:
        algorithm: "sha256", "md5", or "git-sha1", the name that git gives to content.
        value: hexadecimal.
    """

    algorithm: str
    value: str

    def of(self, path: Path) -> str:
        """That checksum of a file.

        >>> path = getfixture("tmp_path") / "empty"
        >>> _ = path.write_bytes(b"")
        >>> Checksum("git-sha1", "").of(path)
        'e69de29bb2d1d6434b8b29ae775ad8c2e48c5391'
        """
        with path.open("rb") as file:
            if self.algorithm != "git-sha1":
                return hashlib.file_digest(file, self.algorithm).hexdigest()
            return hashlib.sha1(b"blob %d\0" % path.stat().st_size + file.read()).hexdigest()


@dataclass(frozen=True)
class Part:
    """One file.

    Attributes:
        path: below the dataset's folder, "/" between folders.
        url: where it can be fetched; None = a person brings it.
        size: bytes; None = unknown.
        checksum: None = unknown.
    """

    path: str
    url: str | None
    size: int | None = None
    checksum: Checksum | None = None


@dataclass(frozen=True)
class Step:
    """Files that are fetched together, and whether they then have to be unpacked.

    Attributes:
        parts: one file, or the volumes of an archive that is split over several.
        unpack: whether they are an archive, of which nothing remains.
    """

    parts: tuple[Part, ...]
    unpack: bool

    @property
    def main(self) -> Part:
        """The file that is unpacked: the last volume."""
        return next((part for part in self.parts if part.path.endswith(".zip")), self.parts[-1])

    @property
    def size(self) -> int:
        return sum(part.size or 0 for part in self.parts)


def steps(parts: Sequence[Part]) -> list[Step]:
    """Plain files first, since archives may be unpacked by the lists among them; then archive by archive.

    >>> [(step.main.path, len(step.parts), step.unpack) for step in steps([
    ...     Part("a.z01", None), Part("a.zip", None), Part("b.tar.gz", None), Part("list.csv", None)
    ... ])]
    [('list.csv', 1, False), ('a.zip', 2, True), ('b.tar.gz', 1, True)]
    """
    plain = [Step((part,), unpack=False) for part in parts if not is_archive(part.path)]
    archives = sorted(
        (part for part in parts if is_archive(part.path)), key=lambda part: (_whole(part.path), part.path)
    )
    return plain + [Step(tuple(group), unpack=True) for _, group in groupby(archives, lambda part: _whole(part.path))]


def is_archive(path: str) -> bool:
    """Whether a file is one to unpack, by its name.

    >>> [is_archive(name) for name in ("a.tar.gz", "a.z02", "a.avi", "tar.csv")]
    [True, True, False, False]
    """
    return bool(_ARCHIVE.search(path))


def _whole(path: str) -> str:
    return re.sub(r"\.z\d\d+$", ".zip", path)
