"""The 128 instruments of General MIDI, each playing sixteen notes; the text is the class text.

Splits are by pitch class: no note of the test split was heard in training in any octave, at any velocity, from any
instrument, and two notes that differ in velocity only (which sound the same once normalised) are in the same split.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from feature_cache.archives import archive_named, damaged, unpacked
from feature_cache.datasets.base import Item, Waveform
from feature_cache.datasets.gm_names import INSTRUMENTS, OCTAVE
from feature_cache.datasets.splits import members
from feature_cache.manifest import ClassLabel, MediaSource

PITCHES = {"train": (48, 53, 57, 62, 67), "validation": (59,), "test": (54, 64)}
"""MIDI keys around middle C (60) before the instrument's own octave; all of different pitch class."""
VELOCITIES = (64, 112)


class Instruments:
    """128 instruments × 8 pitches × 2 velocities, clips of 1.5 s at 16 kHz, rendered from FluidR3 when asked for."""

    name = "instruments"
    version = "1"
    modalities = ("text", "audio")
    classes = tuple(ClassLabel(name, name) for name in INSTRUMENTS)
    sources = (
        MediaSource(
            "Fluid (R3) General MIDI SoundFont by Frank Wen (Debian fluid-soundfont-gm)",
            "3.1-5.3",
            "MIT",
            archive_named("fluid-soundfont-gm").url,
        ),
    )
    synthetic = False

    def __init__(self, data_root: Path) -> None:
        folder = unpacked(data_root, "fluid-soundfont-gm")
        self._soundfont = folder / "usr" / "share" / "sounds" / "sf2" / "FluidR3_GM.sf2"
        if not self._soundfont.is_file():
            raise damaged(self._soundfont, "is missing")
        self._splits = {split: tuple(self._items(pitches)) for split, pitches in PITCHES.items()}

    def items(self, split: str) -> Sequence[Item]:
        return members(self._splits, split)

    def _items(self, pitches: Sequence[int]) -> list[Item]:
        return [
            self._item(program, pitch + 12 * OCTAVE.get(name, 0), velocity)
            for program, name in enumerate(INSTRUMENTS)
            for pitch in pitches
            for velocity in VELOCITIES
        ]

    def _item(self, program: int, pitch: int, velocity: int) -> Item:
        media = {"audio": partial(_note, self._soundfont, program, pitch, velocity)}
        return Item(f"{program:03d}-p{pitch:03d}-v{velocity:03d}", INSTRUMENTS[program], program, media)


def _note(soundfont: Path, program: int, pitch: int, velocity: int) -> Waveform:
    from feature_cache.datasets.soundfont import note  # importing this module must stay cheap

    return note(soundfont, program, pitch, velocity)
