"""Emoji: Microsoft's Fluent 3D picture, its Unicode name, and the group that Unicode files it under."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from feature_cache.datasets.base import Item
from feature_cache.datasets.pocket.archives import archive_named, damaged, unpacked
from feature_cache.datasets.pocket.emoji_list import GROUP_CLASSES, SOURCE, drawings, read_emoji
from feature_cache.datasets.pocket.pictures import open_on_white
from feature_cache.datasets.splits import caption_key, members, partition
from feature_cache.manifest import MediaSource


class EmojiPictures:
    """About 1,400 pictures of 256 × 256 pixels, split by name."""

    name = "emoji"
    version = "2"
    modalities = ("vision", "text")
    classes = ()
    open_classes = GROUP_CLASSES
    sources = (
        MediaSource(
            "Microsoft Fluent Emoji 3D (npm @lobehub/fluent-emoji-3d)",
            "1.1.0",
            "MIT",
            archive_named("fluent-emoji-3d").url,
        ),
        SOURCE,
    )
    synthetic = False

    def __init__(self, data_root: Path) -> None:
        folder = unpacked(data_root, "fluent-emoji-3d") / "package" / "assets"
        pictures = drawings(folder, ".webp")
        items = [
            Item(e.code, e.name, open_label=e.group, media={"vision": partial(open_on_white, pictures[e.code])})
            for e in read_emoji(data_root)
            if e.code in pictures
        ]
        if not items:
            raise damaged(folder, "has no picture of any emoji in Unicode's list")
        self._splits = partition(items, lambda item: caption_key(item.caption))

    def items(self, split: str) -> Sequence[Item]:
        return members(self._splits, split)
