"""Animated emoji: a short clip, its Unicode name, and a still picture of the same emoji in another drawing style."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from PIL import Image

from feature_cache.datasets.base import Clip, Item
from feature_cache.datasets.pocket.archives import ARCHIVES, archive_named, unpacked
from feature_cache.datasets.pocket.emoji_list import GROUP_CLASSES, SOURCE, drawings, read_emoji
from feature_cache.datasets.pocket.pictures import on_white, open_on_white
from feature_cache.datasets.splits import caption_key, members, partition
from feature_cache.decoding.sampling import middles
from feature_cache.manifest import MediaSource

FRAMES = 6
"""Pictures taken of a clip, evenly spaced."""
_PACKAGES = tuple(archive for archive in ARCHIVES if archive.dataset == "emoji_clips")


class EmojiClips:
    """About 700 clips of 256 × 256 pixels, split by name; the still is Noto's, because Fluent's would be a frame."""

    name = "emoji_clips"
    version = "1"
    modalities = ("vision", "text", "video")
    classes = ()
    open_classes = GROUP_CLASSES
    sources = (
        *(
            MediaSource(f"Microsoft Fluent Emoji, animated (npm @lobehub/{archive.name})", "1.0.0", "MIT", archive.url)
            for archive in _PACKAGES
        ),
        MediaSource(
            "Google Noto Emoji (npm emoji-datasource-google)", "16.0.0", "Apache-2.0", archive_named("noto-emoji").url
        ),
        SOURCE,
    )
    synthetic = False

    def __init__(self, data_root: Path) -> None:
        clips: dict[str, Path] = {}
        for archive in _PACKAGES:
            clips |= drawings(unpacked(data_root, archive.name) / "package" / "assets", ".webp")
        stills = drawings(unpacked(data_root, "noto-emoji") / "package" / "img" / "google" / "64", ".png")
        items = [
            Item(
                e.code,
                e.name,
                open_label=e.group,
                media={"vision": partial(open_on_white, stills[e.code]), "video": partial(read_clip, clips[e.code])},
            )
            for e in read_emoji(data_root)
            if e.code in clips.keys() & stills and is_animated(clips[e.code])
        ]
        self._splits = partition(items, lambda item: caption_key(item.caption))

    def items(self, split: str) -> Sequence[Item]:
        return members(self._splits, split)


def is_animated(path: Path) -> bool:
    """Whether a WebP file has the chunk of an animation (developers.google.com/speed/webp/docs/riff_container).

    Half of the files in the packages are a single picture.
    """
    with path.open("rb") as file:
        return b"ANIM" in file.read(64)


def read_clip(path: Path, frames: int = FRAMES) -> Clip:
    """So many frames of an animation, in the middle of equal stretches of it, composited on white."""
    with Image.open(path) as animation:
        count = getattr(animation, "n_frames", 1)
        chosen = []
        for number in middles(count, frames):
            animation.seek(number)
            chosen.append(on_white(animation))
    return Clip(chosen)
