"""The emoji that there are: code, name and group, from Unicode's list; and the files that draw them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from feature_cache.datasets.pocket.archives import archive_named, damaged, unpacked
from feature_cache.manifest import ClassLabel, MediaSource

GROUPS = {
    "Smileys & Emotion": "smileys and emotion",
    "People & Body": "people and body",
    "Animals & Nature": "animals and nature",
    "Food & Drink": "food and drink",
    "Travel & Places": "travel and places",
    "Activities": "activities",
    "Objects": "objects",
}
"""Unicode's groups and what people would call them. Without "Flags": two hundred countries are not a visual concept;
and without "Symbols": a network for photographs sees the same street sign in all of them."""
PEOPLE = list(GROUPS).index("People & Body")
"""A group of families whose members differ in a detail only."""
GROUP_CLASSES = tuple(ClassLabel(group, text) for group, text in GROUPS.items())
SOURCE = MediaSource("unicode-emoji-json (npm)", "0.9.0", "MIT", archive_named("unicode-emoji-json").url)


@dataclass(frozen=True)
class Emoji:
    """One emoji of Unicode.

    Attributes:
        code: its code points in hexadecimal, "1f600", without the variation selector.
        name: "grinning face".
        group: index into `GROUPS`.
    """

    code: str
    name: str
    group: int


def read_emoji(data_root: Path) -> list[Emoji]:
    """All emoji but flags, symbols and skin tones, in Unicode's order. Raises `MediaError`."""
    names = unpacked(data_root, "unicode-emoji-json") / "package" / "data-by-emoji.json"
    groups = list(GROUPS)
    try:
        entries = json.loads(names.read_text(encoding="utf-8"))
        return [
            Emoji(plain_code("-".join(f"{ord(point):04x}" for point in emoji)), entry["name"], groups.index(group))
            for emoji, entry in entries.items()
            if (group := entry["group"]) in GROUPS
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise damaged(names, f"is not the list of emoji ({error!r})") from error


def drawings(folder: Path, ending: str) -> Mapping[str, Path]:
    """The files of a folder by the code of the emoji they draw. Raises `MediaError` if there are none."""
    files = {plain_code(path.stem): path for path in sorted(folder.glob(f"*{ending}"))}
    if not files:
        raise damaged(folder, f"has no *{ending}")
    return files


def plain_code(code: str) -> str:
    """A code without variation selectors, which some file names have and others have not.

    >>> plain_code("2764-fe0f-200d-1f525")
    '2764-200d-1f525'
    """
    return "-".join(part for part in code.lower().split("-") if part != "fe0f")
