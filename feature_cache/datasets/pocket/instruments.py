"""The 128 instruments of General MIDI, each playing sixteen notes; the text is the class text.

Splits are by pitch class and by velocity: no note of the test split was heard in training in any octave, nor as soft
or as loud, from any instrument.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from feature_cache.datasets.base import Item, Waveform
from feature_cache.datasets.pocket.archives import archive_named, damaged, unpacked
from feature_cache.datasets.pocket.gm_names import FAMILIES, INSTRUMENTS, OCTAVE
from feature_cache.datasets.splits import members
from feature_cache.manifest import ClassLabel, MediaSource

PITCHES = {"train": (48, 53, 57, 62, 67), "validation": (59,), "test": (54, 64)}
"""MIDI keys around middle C (60) before the instrument's own octave; all of different pitch class."""
VELOCITIES = {"train": (64, 112), "validation": (80, 96), "test": (48, 127)}
"""How hard the key is struck, of 127."""

FAMILY_SIZE = len(INSTRUMENTS) // len(FAMILIES)


class Instruments:
    """128 instruments × 8 pitches × 2 velocities, clips of 1.5 s at 16 kHz, rendered from FluidR3 when asked for."""

    name = "instruments"
    version = "2"
    modalities = ("text", "audio")
    classes = tuple(ClassLabel(name, name) for name in INSTRUMENTS)
    open_classes = tuple(ClassLabel(family, f"{family} instruments") for family in FAMILIES)
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
        self._splits = {split: tuple(self._items(PITCHES[split], VELOCITIES[split])) for split in PITCHES}

    def items(self, split: str) -> Sequence[Item]:
        return members(self._splits, split)

    def _items(self, pitches: Sequence[int], velocities: Sequence[int]) -> list[Item]:
        return [
            self._item(program, pitch + 12 * OCTAVE.get(name, 0), velocity)
            for program, name in enumerate(INSTRUMENTS)
            for pitch in pitches
            for velocity in velocities
        ]

    def _item(self, program: int, pitch: int, velocity: int) -> Item:
        media = {"audio": partial(_note, self._soundfont, program, pitch, velocity)}
        name, family = INSTRUMENTS[program], program // FAMILY_SIZE
        return Item(f"{program:03d}-p{pitch:03d}-v{velocity:03d}", name, program, family, media)


def _note(soundfont: Path, program: int, pitch: int, velocity: int) -> Waveform:
    from feature_cache.datasets.pocket.soundfont import note  # importing this module must stay cheap

    return note(soundfont, program, pitch, velocity)
