"""Sounds: the samples that come with Sonic Pi, recorded by many people, and what they are in words."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from feature_cache.datasets.base import Item, Waveform
from feature_cache.datasets.pocket.archives import archive_named, damaged, unpacked
from feature_cache.datasets.pocket.sound_names import CAPTIONS
from feature_cache.datasets.splits import caption_key, members, partition
from feature_cache.manifest import ClassLabel, MediaSource

SECONDS = 10
"""What is longer is cut off, as AudioSet's clips are."""


class Sounds:
    """165 clips of drums, instruments, machines and noises, split by caption."""

    name = "sounds"
    version = "1"
    modalities = ("text", "audio")
    classes: tuple[ClassLabel, ...] = ()
    open_classes: tuple[ClassLabel, ...] = ()
    sources = (
        MediaSource(
            "Sonic Pi's samples, from freesound.org (Debian sonic-pi-samples)",
            "3.2.2~repack-8",
            "CC0-1.0",
            archive_named("sonic-pi-samples").url,
        ),
    )
    synthetic = False

    def __init__(self, data_root: Path) -> None:
        folder = unpacked(data_root, "sonic-pi-samples") / "usr" / "share" / "sonic-pi" / "samples"
        files = {path.stem: path for path in folder.glob("*.flac")}
        unnamed, absent = sorted(files.keys() - CAPTIONS), sorted(CAPTIONS.keys() - files)
        if unnamed or absent:
            raise damaged(
                folder, f"should have the {len(CAPTIONS)} known samples, but {[*absent, *unnamed][0]} differs"
            )
        items = [Item(name, CAPTIONS[name], media={"audio": partial(read_sound, path)}) for name, path in files.items()]
        self._splits = partition(items, lambda item: caption_key(item.caption))

    def items(self, split: str) -> Sequence[Item]:
        return members(self._splits, split)


def read_sound(path: Path) -> Waveform:
    """The first `SECONDS` of a sound file, all channels mixed."""
    import soundfile  # importing this module must stay cheap

    with soundfile.SoundFile(path) as file:
        samples = file.read(SECONDS * file.samplerate, dtype="float32", always_2d=True)
        return Waveform(np.asarray(samples.mean(axis=1), np.float32), file.samplerate)
