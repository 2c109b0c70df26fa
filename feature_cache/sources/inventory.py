"""What of a dataset is on the disk. Looking needs nothing but the file system, and half a dataset is no error."""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from itertools import islice
from pathlib import Path
from typing import Literal

from feature_cache.sources.tables import VGGSOUND_CLIPS, VGGSOUND_LIST, vggsound_clips

Verdict = Literal["complete", "incomplete", "not there"]
MISSING_SHOWN = 3


@dataclass(frozen=True)
class Finding:
    """What one check has found.

    Attributes:
        what: the things that were counted.
        where: the folder, or the table that names them, below the dataset's folder.
        found: how many are there.
        expected: how many there should be; None = it cannot be told yet.
        missing: the first that are not there, as far as their names are known.
    """

    what: str
    where: str
    found: int
    expected: int | None
    missing: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        return self.expected is not None and self.found >= self.expected


Check = Callable[[Path], Finding]
"""Looks into a dataset's folder, which need not exist."""


def verdict(findings: Iterable[Finding]) -> Verdict:
    """Of a whole dataset.

    >>> verdict([Finding("clips", "video", 3, 3), Finding("tables", ".", 0, 1)])
    'incomplete'
    """
    findings = list(findings)
    if all(finding.complete for finding in findings):
        return "complete"
    return "incomplete" if any(finding.found for finding in findings) else "not there"


def count(what: str, where: str, pattern: str, expected: int) -> Check:
    """A check that counts the files below a folder that match and are not empty; with "/" in the end, folders."""

    def check(folder: Path) -> Finding:
        found = sum(1 for _ in _matches(folder / where, pattern))
        missing = () if found else (f"{where}/{pattern}" if where != "." else pattern,)
        return Finding(what, where, found, expected, missing)

    return check


def listed(what: str, tables: tuple[str, ...], files: Callable[[Path], Iterator[Path]]) -> Check:
    """A check that every file is there which these tables name; `files(table)` yields their paths.

    A table that names none counts as missing.
    """

    def check(folder: Path) -> Finding:
        where = tables[0] if len(tables) == 1 else f"{len(tables)} tables"
        named = {table: list(files(folder / table)) if (folder / table).is_file() else [] for table in tables}
        lost = [table for table, paths in named.items() if not paths]
        everything = [path for paths in named.values() for path in paths]
        gone = [str(path.relative_to(folder)) for path in everything if not _is_filled(path)]
        expected = None if lost else len(everything)
        return Finding(what, where, len(everything) - len(gone), expected, tuple([*lost, *gone][:MISSING_SHOWN]))

    return check


def first_listed(what: str, split: str, wanted: int) -> Check:
    """A check for the clips of VGGSound: `wanted` of those that its list names for a split, whichever are there."""

    def check(folder: Path) -> Finding:
        table, clips = folder / VGGSOUND_LIST, folder / VGGSOUND_CLIPS
        names = list(vggsound_clips(table, split)) if table.is_file() else []
        if not names:
            return Finding(what, VGGSOUND_LIST, 0, None, (VGGSOUND_LIST,))
        there = {entry.name for entry in _scan(clips) if _is_filled(entry)}
        found = sum(f"{name}.mp4" in there for name in names)
        expected = min(wanted, len(names))
        gone = (f"{VGGSOUND_CLIPS}/{name}.mp4" for name in names if f"{name}.mp4" not in there)
        missing = () if found >= expected else tuple(islice(gone, MISSING_SHOWN))
        return Finding(what, VGGSOUND_LIST, min(found, expected), expected, missing)

    return check


def rows_of_parquet(what: str, where: str, expected: int) -> Check:
    """A check of the rows that the Parquet files of a folder have together; a damaged file has none."""

    def check(folder: Path) -> Finding:
        import pyarrow.parquet as parquet

        found, damaged = 0, []
        for entry in sorted(_matches(folder / where, "*.parquet")):
            try:
                found += parquet.ParquetFile(folder / where / entry).metadata.num_rows
            except (OSError, ValueError):  # what pyarrow raises for a file that is cut off or is something else
                damaged.append(f"{where}/{entry} cannot be read")
        return Finding(what, where, found, expected, tuple(damaged[:MISSING_SHOWN]))

    return check


def _matches(folder: Path, pattern: str) -> Iterator[str]:
    """The paths below a folder that match; "**/" stands for any number of folders, "*/" for one."""
    head, slash, rest = pattern.partition("/")
    for entry in _scan(folder):
        if head == "**":
            if entry.is_dir():
                yield from (f"{entry.name}/{path}" for path in _matches(folder / entry.name, pattern))
            elif fnmatch(entry.name, rest) and _is_filled(entry):
                yield entry.name
        elif slash and entry.is_dir() and fnmatch(entry.name, head):
            yield from (
                (f"{entry.name}/{path}" for path in _matches(folder / entry.name, rest)) if rest else [entry.name]
            )
        elif not slash and fnmatch(entry.name, head) and _is_filled(entry):
            yield entry.name


def _is_filled(path: "Path | os.DirEntry[str]") -> bool:
    """Whether it is a file with something in it."""
    try:
        return path.is_file() and path.stat().st_size > 0
    except OSError:
        return False


def _scan(folder: Path) -> "list[os.DirEntry[str]]":
    """The entries of a folder, hidden ones apart; none if it is missing or closed."""
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except OSError:
        return []
