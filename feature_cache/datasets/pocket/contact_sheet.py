"""What the pocket suite looks like: a picture with a few examples of every dataset.

    python -m feature_cache.datasets.pocket.contact_sheet --data_root=media --out=docs/pocket/examples.png

Which ones is decided by a rule (`examples.py`), so that the picture shows the datasets and not the best of them.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import matplotlib as mpl
import numpy as np
from jaxtyping import Float
from PIL import Image

from feature_cache import datasets
from feature_cache.atomic import write_atomically
from feature_cache.datasets.base import Dataset, Motion, Raw, Waveform
from feature_cache.datasets.pocket.examples import Example, examples_of, examples_over_splits
from feature_cache.datasets.pocket.fingerprints import picture_of
from feature_cache.datasets.pocket.sheet import WIDTH, Sheet, broken
from feature_cache.encoders.pocket.log_mel import MEL_BANDS, PATCH_HOP, log_mel_patches
from feature_cache.errors import UserError
from feature_cache.flags import parse_strictly
from feature_cache.manifest import SPLITS
from feature_cache.registry import resolve

# All lengths are pixels.
MARGIN, GAP, SEAM = 40, 28, 6  # around the sheet, between examples, between the media of one
TITLE, HEAD, TAG, LINE, FOOT = 122, 64, 32, 25, 30  # heights: of the sheet's title; of the parts of a band from its top
PLOT = 2 * MEL_BANDS  # height of what is not a picture
STEP = 5  # between the shades of a picture; unseen, but a fifth of the file
FRAME = 0.01  # seconds from one column of a spectrogram to the next
NAME, KINDS, COUNTS, NOTE = MARGIN, 270, (505, 650, 840), WIDTH - MARGIN  # where a band's title has its parts

COLOURS = {"train": "#0072B2", "validation": "#00795A", "test": "#C24E00"}
AXES = ("#E69F00", "#56B4E9", "#CC79A7")  # with the splits' (two of them darkened) those of Okabe & Ito
SHADES = mpl.colormaps["magma"].resampled(32)  # for smaller files, as STEP
FAINT, RULE = "#6E6E6E", "#DADADA"

CREDITS = (
    "Fluent Emoji © Microsoft (MIT) · Noto Emoji © Google (Apache-2.0) · Twemoji © Twitter (CC BY 4.0) · "
    "FluidR3 © Frank Wen (MIT) · Sweet Home 3D catalogues (CC0 / CC BY 3.0, authors in docs/pocket.md) · "
    "Sonic Pi samples (CC0) · smartwatch data © David Burns (BSD-3)"
)


@dataclass(frozen=True)
class Look:
    """How a dataset's band is laid out, and what is seen in it."""

    columns: int = 6
    rows: int = 1
    note: str = ""


LOOKS = {
    "emoji": Look(8, note="Fluent’s 3D drawings"),
    "emoji_styles": Look(note="the same emoji by Fluent (flat), Noto and Twemoji"),
    "emoji_clips": Look(4, 2, "Noto’s still, then three frames of Fluent’s clip"),
    "instruments": Look(note="log-mel spectrograms of single notes"),
    "sounds": Look(note="log-mel spectrograms, stretched to one width"),
    "furniture": Look(note="icon, and depth map: near is light"),
    "exercises": Look(note="4 s of acceleration above, rotation below"),
    "spoken": Look(note="log-mel spectrograms of synthetic speech"),
}


class Band:
    """One dataset on the sheet: a title, and rows of examples with their captions broken into lines."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset, self.look = dataset, LOOKS.get(dataset.name, Look())
        columns = self.look.columns
        self.cell = (WIDTH - 2 * MARGIN - (columns - 1) * GAP) // columns
        choose = examples_over_splits if dataset.name == "emoji_styles" else examples_of
        examples = choose(dataset, columns * self.look.rows)
        self.rows = [examples[n : n + columns] for n in range(0, len(examples), columns)]
        motions = [raw.samples for example in examples for _, raw in example.media if isinstance(raw, Motion)]
        self.reach = np.array([np.min(motions, (0, 1)), np.max(motions, (0, 1))]) if motions else np.zeros((2, 6))

    @property
    def height(self) -> int:
        return HEAD + sum(self.height_of(row) for row in self.rows) + FOOT - LINE

    def height_of(self, row: Sequence[Example]) -> int:
        """From the top of a row of examples to that of the next."""
        return self.media_height(row) + LINE * (1 + max(len(self.caption(example)) for example in row))

    def media_height(self, row: Sequence[Example]) -> int:
        """From the top of a row of examples to that of its captions."""
        return TAG + max(self.size(example, raw)[1] for example in row for _, raw in example.media) + 10

    def size(self, example: Example, raw: Raw) -> tuple[int, int]:
        """Width and height of one of an example's media."""
        width = (self.cell - SEAM * (len(example.media) - 1)) // len(example.media)
        return width, PLOT if isinstance(raw, Waveform | Motion) else width

    def caption(self, example: Example) -> list[str]:
        return broken(example.caption, self.cell, 19)


def contact_sheet(loaded: Sequence[Dataset]) -> Sheet:
    """The sheet with a band for each dataset."""
    bands = [Band(dataset) for dataset in loaded]
    credits = broken(CREDITS, WIDTH - 2 * MARGIN, 17)
    with mpl.rc_context({"font.family": "DejaVu Sans", "text.parse_math": False}):
        sheet = Sheet(TITLE + sum(band.height for band in bands) + 32 + LINE * len(credits) + 18)
        modalities = {modality for dataset in loaded for modality in dataset.modalities}
        sheet.text(MARGIN, 66, "The pocket suite", 40, weight="bold")
        rule = "The examples are evenly spaced over the captions in alphabetical order, not picked by hand."
        sheet.text(MARGIN, 102, f"{len(loaded)} datasets, {len(modalities)} modalities. {rule}", 20, FAINT)
        y = TITLE
        for band in bands:
            _draw_band(sheet, y, band)
            y += band.height
        sheet.bar(MARGIN, y, WIDTH - 2 * MARGIN, 1, RULE)
        for number, line in enumerate(credits):
            sheet.text(MARGIN, y + 36 + LINE * number, line, 17, FAINT)
    return sheet


def _draw_band(sheet: Sheet, y: int, band: Band) -> None:
    dataset = band.dataset
    sheet.bar(MARGIN, y, WIDTH - 2 * MARGIN, 1, RULE)
    sheet.text(NAME, y + 40, dataset.name, 27, weight="bold")
    sheet.text(KINDS, y + 40, " · ".join(dataset.modalities), 20)
    for x, split in zip(COUNTS, SPLITS, strict=True):
        sheet.text(x, y + 40, f"{len(dataset.items(split)):,} {split}", 20, COLOURS[split])
    key = zip("zyx", reversed(AXES), strict=True) if band.reach.any() else ()
    end = NOTE
    for letter, colour in key:
        sheet.text(end, y + 40, letter, 18, colour, ha="right", weight="bold")
        end -= 20
    sheet.text(end, y + 40, band.look.note, 18, FAINT, ha="right")
    y += HEAD
    for row in band.rows:
        for column, example in enumerate(row):
            x = MARGIN + column * (WIDTH - 2 * MARGIN + GAP) // band.look.columns
            _draw_media(sheet, x, y, band, example)
            for number, line in enumerate(band.caption(example)):
                sheet.text(x, y + band.media_height(row) + 17 + LINE * number, line, 19)
        y += band.height_of(row)


def _draw_media(sheet: Sheet, x: int, y: int, band: Band, example: Example) -> None:
    """Draws the media of an example, and above them the split that they are in."""
    number, left = 0, x
    for split, together in groupby(example.media, lambda medium: medium[0]):
        start = left
        for _, raw in together:
            width, height = band.size(example, raw)
            _draw(sheet, (left, y + TAG, width, height), raw, band.reach)
            if isinstance(raw, Waveform):
                seconds = len(raw.samples) / raw.rate
                sheet.text(left + width, y + 17, f"{seconds:.1f} s", 15, FAINT, ha="right")
            number += 1
            left = x + number * (band.cell + SEAM) // len(example.media)
        sheet.text(start, y + 17, split, 15, COLOURS[split])
        sheet.bar(start, y + 23, left - SEAM - start, 3, COLOURS[split])


def _draw(sheet: Sheet, box: tuple[int, int, int, int], raw: Raw, reach: Float[np.ndarray, "2 6"]) -> None:
    """Draws a medium; motion on the scale from the lowest to the highest values of all that is beside it."""
    x, y, width, height = box
    match raw:
        case Motion():
            half = (height - SEAM) // 2
            for top, part in ((y, slice(0, 3)), (y + half + SEAM, slice(3, 6))):
                axes = sheet.axes(x, top, width, half)
                axes.set(xlim=(0, len(raw.samples) - 1), ylim=(reach[0, part].min(), reach[1, part].max()))
                axes.axhline(0, color=RULE, lw=1)
                for trace, colour in zip(raw.samples[:, part].T, AXES, strict=True):
                    axes.plot(trace, color=colour, lw=1.8, solid_joinstyle="round")
        case Waveform():
            columns = Image.fromarray(spectrogram(raw)).resize((width, MEL_BANDS), Image.Resampling.BILINEAR)
            axes = sheet.axes(x, y, width, height)
            axes.imshow(np.asarray(columns), cmap=SHADES, aspect="auto", origin="lower", interpolation="nearest")
        case _:
            picture = picture_of(raw)
            if picture is None:
                raise TypeError(f"Pictures, sounds and motion can be drawn, but not {raw!r}.")
            scaled = picture.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
            shades = scaled.point([STEP * round(value / STEP) for value in range(256)] * 3)
            sheet.axes(x, y, width, height).imshow(shades, aspect="auto", interpolation="nearest")


def spectrogram(sound: Waveform) -> Float[np.ndarray, "64 frames"]:
    """The log-mel spectrogram of a sound: its patches side by side, without the silence that fills the last."""
    patches = log_mel_patches(sound)
    frames = np.concatenate([*patches[:, :PATCH_HOP], patches[-1, PATCH_HOP:]])
    heard = round(len(sound.samples) / sound.rate / FRAME)
    return np.asarray(frames[: max(heard, 1)].T)


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        "python -m feature_cache.datasets.pocket.contact_sheet", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("--data_root", type=Path, default=Path("media"), help="folder of the raw media")
    parser.add_argument("--out", type=Path, required=True, help="the PNG file to write")
    flags = parse_strictly(parser, arguments)
    try:
        loaded = [resolve(datasets.REGISTRY, "dataset", name)(flags.data_root) for name in datasets.POCKET]
        data = contact_sheet(loaded).png()
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    flags.out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(flags.out, data)
    return 0


if __name__ == "__main__":
    sys.exit(main())
