"""Emoji: Microsoft's Fluent 3D picture, its Unicode name, and the group that Unicode files it under."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from feature_cache.archives import archive_named, damaged, unpacked
from feature_cache.datasets.base import Item
from feature_cache.datasets.pictures import open_on_white
from feature_cache.datasets.splits import caption_key, members, partition
from feature_cache.manifest import ClassLabel, MediaSource

GROUPS = {
    "Smileys & Emotion": "smileys and emotion",
    "People & Body": "people and body",
    "Animals & Nature": "animals and nature",
    "Food & Drink": "food and drink",
    "Travel & Places": "travel and places",
    "Activities": "activities",
    "Objects": "objects",
    "Symbols": "symbols",
}
"""Unicode's groups and what people would call them; without "Flags": two hundred countries are not a visual concept."""

VARIANTS = (
    "face facing person people man men woman women adult child boy girl older old mr mrs mx santa merman mermaid "
    "merperson left right up down upper lower front back backhand tilted red orange yellow green blue purple brown "
    "black white pink grey light dark small large medium high low big closed open one two three four five six seven "
    "eight nine ten eleven twelve"
)
"""Words that tell members of one family apart: "woman cook" and "man cook", "red heart" and "blue heart"."""


class Emoji:
    """About 1,600 pictures of 256 × 256 pixels, split by name; skin tones and flags left out."""

    name = "emoji"
    version = "1"
    modalities = ("vision", "text")
    classes = tuple(ClassLabel(group, text) for group, text in GROUPS.items())
    sources = (
        MediaSource(
            "Microsoft Fluent Emoji 3D (npm @lobehub/fluent-emoji-3d)",
            "1.1.0",
            "MIT",
            archive_named("fluent-emoji-3d").url,
        ),
        MediaSource("unicode-emoji-json (npm)", "0.9.0", "MIT", archive_named("unicode-emoji-json").url),
    )
    synthetic = False

    def __init__(self, data_root: Path) -> None:
        pictures = unpacked(data_root, "fluent-emoji-3d") / "package" / "assets"
        names = unpacked(data_root, "unicode-emoji-json") / "package" / "data-by-emoji.json"
        self._splits = partition(_items(names, pictures), lambda item: caption_key(item.caption, VARIANTS))

    def items(self, split: str) -> Sequence[Item]:
        return members(self._splits, split)


def _items(names: Path, pictures: Path) -> list[Item]:
    files = {path.stem: path for path in pictures.glob("*.webp")}
    labels = {group: label for label, group in enumerate(GROUPS)}
    try:
        entries = json.loads(names.read_text(encoding="utf-8"))
        named = [(_picture(emoji, files), entry["name"], entry["group"]) for emoji, entry in entries.items()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise damaged(names, f"is not the list of emoji ({error!r})") from error
    items = [
        Item(path.stem, name, labels[group], {"vision": partial(open_on_white, path)})
        for path, name, group in named
        if path is not None and group in labels
    ]
    if not items:
        raise damaged(pictures, f"has no picture of any emoji in {names}")
    return items


def _picture(emoji: str, files: dict[str, Path]) -> Path | None:
    """The file of an emoji: named after its code points, with or without the variation selector."""
    code = "-".join(f"{ord(character):04x}" for character in emoji)
    for stem in (code, code.replace("-fe0f", ""), f"{code}-fe0f"):
        if stem in files:
            return files[stem]
    return None
