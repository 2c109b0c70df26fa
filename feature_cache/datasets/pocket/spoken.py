"""Spoken captions: the names of the emoji, said by a synthesizer in several voices, and in writing."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from feature_cache.datasets.base import Item, Waveform
from feature_cache.datasets.pocket.emoji_list import GROUP_CLASSES, PEOPLE, SOURCE, read_emoji
from feature_cache.datasets.splits import caption_key, members, partition
from feature_cache.manifest import MediaSource

VOICES = ("en-us", "en-us+f3", "en-gb-scotland", "en+m3")
"""One after the other, in the order of the list of emoji: every split has all of them."""


class Spoken:
    """About 1,000 names of things in one of four voices each, at 16 kHz, spoken when asked for; split by name."""

    name = "spoken"
    version = "1"
    modalities = ("text", "speech")
    classes = ()
    open_classes = GROUP_CLASSES
    sources = (
        MediaSource(
            "Names spoken by eSpeak NG (PyPI espeakng-loader; the program is GPL-3.0-or-later, what it says is not)",
            "0.2.4",
            "MIT",
            "https://github.com/espeak-ng/espeak-ng",
        ),
        SOURCE,
    )
    synthetic = False

    def __init__(self, data_root: Path) -> None:
        things = [e for e in read_emoji(data_root) if e.group != PEOPLE]
        items = [
            Item(e.code, e.name, open_label=e.group, media={"speech": partial(_say, e.name, VOICES[n % len(VOICES)])})
            for n, e in enumerate(things)
        ]
        self._splits = partition(items, lambda item: caption_key(item.caption))

    def items(self, split: str) -> Sequence[Item]:
        return members(self._splits, split)


def _say(text: str, voice: str) -> Waveform:
    from feature_cache.datasets.pocket.speech_synthesis import speak  # importing this module must stay cheap

    return speak(text, voice)
