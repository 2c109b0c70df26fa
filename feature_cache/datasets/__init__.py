"""The datasets by name. A new one is one new file and one line here."""

from typing import Any

from feature_cache.registry import resolve

REGISTRY: dict[str, str] = {
    "emoji": "feature_cache.datasets.pocket.emoji:EmojiPictures",
    "emoji_styles": "feature_cache.datasets.pocket.emoji_styles:EmojiStyles",
    "emoji_clips": "feature_cache.datasets.pocket.emoji_clips:EmojiClips",
    "instruments": "feature_cache.datasets.pocket.instruments:Instruments",
    "sounds": "feature_cache.datasets.pocket.sounds:Sounds",
    "furniture": "feature_cache.datasets.pocket.furniture:Furniture",
    "exercises": "feature_cache.datasets.pocket.exercises:Exercises",
    "spoken": "feature_cache.datasets.pocket.spoken:Spoken",
    "ucf101": "feature_cache.datasets.ucf101:Ucf101",
    "esc50": "feature_cache.datasets.esc50:Esc50",
    "nyudv2": "feature_cache.datasets.nyudv2:NyuDepthV2",
    "clotho": "feature_cache.datasets.clotho:Clotho",
    "vggsound_s": "feature_cache.datasets.vggsound_s:VggSoundS",
    "tvl": "feature_cache.datasets.tvl:Tvl",
    "llvip": "feature_cache.datasets.llvip:Llvip",
    "folder": "feature_cache.datasets.folder:Folder",
}
TFDS: dict[str, str] = {
    "ucf101": "feature_cache.datasets.tfds_source:Ucf101FromTfds",
    "nyudv2": "feature_cache.datasets.tfds_source:NyuDepthV2FromTfds",
}
"""Datasets that can also come through tensorflow-datasets, with --source=tfds."""
POCKET = ("emoji", "emoji_styles", "emoji_clips", "instruments", "sounds", "furniture", "exercises", "spoken")
PAPER = ("ucf101", "esc50", "nyudv2", "clotho", "vggsound_s", "tvl", "llvip")
"""In the order of the paper's stream."""
GROUPS = {"pocket": POCKET, "paper": PAPER}
"""Names that stand for several datasets on the command line."""
SOURCES = ("files", "tfds")


def find(name: str, source: str = "files") -> Any:
    """The class of a dataset, read from files or as tensorflow-datasets has prepared it.

    Raises `UnknownNameError` for a name that has no dataset from that source.
    """
    return resolve(TFDS, "dataset with --source=tfds", name) if source == "tfds" else resolve(REGISTRY, "dataset", name)
