"""What the readers of published datasets share: sorted listings, tables, splits, errors that say what is missing."""

import csv
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

from feature_cache.datasets.base import Item
from feature_cache.datasets.splits import by_id
from feature_cache.errors import MediaError


class Layout:
    """Where the media of one dataset should be: raises `MediaError` wherever something else is found.

    Attributes:
        name: the dataset's key in `feature_cache.datasets.REGISTRY`.
        root: the data root; everything is named relative to it.
        picture: the expected folders and files in a line, relative to the data root.
    """

    def __init__(self, name: str, root: Path, picture: str) -> None:
        self.name = name
        self.root = Path(root)
        self.picture = picture

    def folders(self, path: str) -> list[str]:
        """The names of the folders in a folder, of which there should be some, sorted; hidden ones are passed over."""
        found = self._listing(path, lambda entry: entry.is_dir())
        if not found:
            raise self.wrong(f"{self.root / path} has no folders")
        return found

    def files(self, path: str, ending: str) -> list[str]:
        """The same for the files whose names end with `ending`."""
        found = self.files_if_any(path, ending)
        if not found:
            raise self.wrong(f"{self.root / path} has no {ending} files")
        return found

    def files_if_any(self, path: str, ending: str) -> list[str]:
        """The same, but there may be none."""
        return self._listing(path, lambda entry: entry.name.endswith(ending))

    def table(self, path: str, columns: Sequence[str]) -> list[dict[str, str]]:
        """The rows of a CSV file with a line of column names, which should have these among others."""
        head, *rows = self.rows(path) or [[]]
        if absent := [column for column in columns if column not in head]:
            raise self.wrong(f"{self.root / path} should have the column {absent[0]!r}, but has {head}")
        return [dict(zip_longest(head, row[: len(head)], fillvalue="")) for row in rows]

    def rows(self, path: str) -> list[list[str]]:
        """The rows of a CSV file without names of columns; empty lines are passed over."""
        file = self.root / path
        try:
            with file.open(newline="", encoding="utf-8-sig") as stream:
                return [row for row in csv.reader(stream) if row]
        except FileNotFoundError:
            raise self.wrong(f"the file {file} is missing") from None
        except (UnicodeDecodeError, csv.Error) as error:
            raise self.wrong(f"{file} is no CSV file in UTF-8 ({error})") from None

    def wrong(self, what: str) -> MediaError:
        """The error for media that are absent or not as they should be."""
        command, flag = "python extract_features.py", f"--dataset={self.name}"
        return MediaError(
            f"The media of the dataset '{self.name}' are not in '{self.root}': {what}. Expected there: {self.picture}. "
            f"`{command} describe {flag}` says where they come from and what is missing, `{command} download {flag}` "
            "fetches what may be fetched; media that are elsewhere are named with --data_root."
        )

    def _listing(self, path: str, wanted: Callable[["os.DirEntry[str]"], bool]) -> list[str]:
        folder = self.root / path
        try:
            with os.scandir(folder) as entries:
                return sorted(entry.name for entry in entries if wanted(entry) and not entry.name.startswith("."))
        except (FileNotFoundError, NotADirectoryError):
            raise self.wrong(f"the folder {folder} is missing") from None


def published_splits(train: Iterable[Item], test: Iterable[Item]) -> dict[str, tuple[Item, ...]]:
    """The splits of the publication, each sorted by id; it has no validation split.

    Of items with the same id all but the first are renamed: "id~2", "id~3" in the given order.

    >>> splits = published_splits([Item("b", "1"), Item("a", "2"), Item("a", "3")], [])
    >>> [(item.id, item.caption) for item in splits["train"]]
    [('a', '2'), ('a~2', '3'), ('b', '1')]
    """
    return {"train": by_id(_distinct(train)), "validation": (), "test": by_id(_distinct(test))}


def _distinct(items: Iterable[Item]) -> list[Item]:
    kept: dict[str, Item] = {}
    counts: Counter[str] = Counter()
    for item in items:
        valid = item.id.encode(errors="replace").decode()  # a file's name need not be Unicode, an id should be
        counts[valid] += 1
        name = valid if counts[valid] == 1 else f"{valid}~{counts[valid]}"
        while name in kept:
            counts[valid] += 1
            name = f"{valid}~{counts[valid]}"
        kept[name] = item if name == item.id else replace(item, id=name)
    return list(kept.values())


def stem(name: str) -> str:
    """A file's name before its first dot, which is what the published ids are made of.

    >>> stem("Night. In the woods.wav")
    'Night'
    """
    return name.partition(".")[0]
