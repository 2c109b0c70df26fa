"""Emoji by name across drawing styles: learned from Noto's and Fluent's flat drawings, recognised in Twemoji's.

A classification set: the training text is the class text, and all splits have the same classes. Only emoji whose name
is in training everywhere are in it, so that nothing is learned here that another dataset tests.
"""

import io
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from feature_cache.datasets.base import Item
from feature_cache.datasets.pocket.archives import archive_named, unpacked
from feature_cache.datasets.pocket.emoji_list import GROUP_CLASSES, PEOPLE, SOURCE, Emoji, drawings, read_emoji
from feature_cache.datasets.pocket.lookalikes import HEAD
from feature_cache.datasets.pocket.pictures import open_on_white
from feature_cache.datasets.splits import by_id, caption_key, members, split_of
from feature_cache.errors import MediaError
from feature_cache.manifest import ClassLabel, MediaSource

if TYPE_CHECKING:
    from PIL.Image import Image

SIDE = 256
"""Pixels of a rendered vector drawing's side."""
ALIKE_IN_ALL_STYLES = ("sunglasses",)
"""What is nearly the same picture in the training's styles and in the test's."""


class EmojiStyles:
    """About 500 names, each drawn in three styles: two to learn from, the third to be tested on."""

    name = "emoji_styles"
    version = "1"
    modalities = ("vision", "text")
    classes: tuple[ClassLabel, ...]
    open_classes = GROUP_CLASSES
    sources = (
        MediaSource(
            "Google Noto Emoji (npm emoji-datasource-google)", "16.0.0", "Apache-2.0", archive_named("noto-emoji").url
        ),
        MediaSource(
            "Microsoft Fluent Emoji Flat (npm @lobehub/fluent-emoji-flat)",
            "1.1.0",
            "MIT",
            archive_named("fluent-emoji-flat").url,
        ),
        MediaSource(
            "Twemoji, © Twitter, Inc. and other contributors (npm emoji-datasource-twitter)",
            "16.0.0",
            "CC-BY-4.0",
            archive_named("twemoji").url,
        ),
        SOURCE,
    )
    synthetic = False

    def __init__(self, data_root: Path) -> None:
        noto = drawings(unpacked(data_root, "noto-emoji") / "package" / "img" / "google" / "64", ".png")
        flat = drawings(unpacked(data_root, "fluent-emoji-flat") / "package" / "assets", ".svg")
        twemoji = drawings(unpacked(data_root, "twemoji") / "package" / "img" / "twitter" / "64", ".png")
        chosen = [
            e for e in _one_of_each_kind(read_emoji(data_root)) if e.code in noto.keys() & flat.keys() & twemoji.keys()
        ]
        self.classes = tuple(ClassLabel(e.name, e.name) for e in chosen)
        drawn = {
            style: [_item(style, files[e.code], e, label) for label, e in enumerate(chosen)]
            for style, files in (("noto", noto), ("flat", flat), ("twemoji", twemoji))
        }
        self._splits = {
            "train": by_id(drawn["noto"] + drawn["flat"]),
            "validation": by_id(drawn["twemoji"][::4]),
            "test": by_id(item for item in drawn["twemoji"] if item.label % 4),
        }

    def items(self, split: str) -> Sequence[Item]:
        return members(self._splits, split)


def _one_of_each_kind(emoji: Sequence[Emoji]) -> list[Emoji]:
    """The first emoji of every caption key, or of every family that looks alike, that is in training."""
    first: dict[str, Emoji] = {}
    for e in emoji:
        if (key := caption_key(e.name)) and e.group != PEOPLE and e.name not in ALIKE_IN_ALL_STYLES:
            first.setdefault(HEAD.get(key, key), e)
    return [e for key, e in first.items() if split_of(key) == "train"]


def _item(style: str, file: Path, emoji: Emoji, label: int) -> Item:
    return Item(f"{emoji.code}-{style}", emoji.name, label, emoji.group, {"vision": partial(_picture, file)})


def _picture(file: Path) -> "Image":
    return open_on_white(io.BytesIO(_rendered(file)) if file.suffix == ".svg" else file)


def _rendered(file: Path) -> bytes:
    """The PNG of a vector drawing."""
    try:
        import resvg_py
    except ModuleNotFoundError as error:
        raise MediaError(
            "The dataset 'emoji_styles' renders vector drawings with resvg-py, which is not installed: run "
            "`make extract-deps`, or `pip install resvg-py==0.5.0`."
        ) from error
    return bytes(resvg_py.svg_to_bytes(svg_path=str(file), width=SIDE, height=SIDE))
