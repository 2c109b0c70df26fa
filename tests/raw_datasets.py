"""Tiny raw media in the layouts of the paper's seven datasets, in real containers, with the traps of the real ones.

    write_raw_datasets(Path("media"))

Every split has at least `ITEMS` items and every class is in training. Contents are distinguishable: pictures and videos
differ in colour, sounds in pitch. Some files have names that break careless code.
"""

import csv
import io
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from tests.raw_files import tone, write_audio, write_video

ITEMS = 3
"""The fewest items of a split: as many as there are classes."""
UCF_CLASSES = ("ApplyEyeMakeup", "Bowling", "YoYo")
ESC_CATEGORIES = ("chirping_birds", "dog", "vacuum_cleaner")
ESC_FILES = ("train-00000-of-00002-2f1ab7b824ec751f.parquet", "train-00001-of-00002-27425e5c1846b494.parquet")
VGG_LABELS = ("child speech, kid speaking", "hail", "playing bass guitar")
SCENES = ("bedroom_0001", "kitchen_0028a", "living_room_0011")
TVL_SUBSETS = ("ssvtp", "hct/data1", "hct/data2", "hct/data3")
VGG_ROOT = Path("vggsound/scratch/shared/beegfs/hchen/train_data/VGGSound_final")
CLOTHO_NAMES = (
    "Été à la plage (2). naïve_mix.wav",
    "雨 #3 – 100% wet & cold.wav",
    "01 A pug struggles to breathe 1_wav.wav",
)
CAPTIONS = (
    "Waves roll in, and a child says “encore”",
    "Rain falls on a tin roof, hard then soft",
    "A dog breathes heavily",
    "Ein Zug fährt vorbei",
)


class Palette:
    """A source of media that differ from each other, the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._count = 0

    def colour(self) -> tuple[int, int, int]:
        """A colour of its own."""
        red, green, blue = self._random.integers(20, 236, 3)
        return int(red), int(green), int(blue)

    def picture(self, width: int = 40, height: int = 32) -> Image.Image:
        """A field of one colour with a square of another."""
        picture = Image.new("RGB", (width, height), self.colour())
        picture.paste(self.colour(), (width // 4, height // 4, width // 2, height // 2))
        return picture

    def frames(self, count: int = 12) -> np.ndarray:
        """[count, 48, 64, 3] in which a square moves from left to right."""
        frames = np.empty((count, 48, 64, 3), np.uint8)
        frames[:], square = self.colour(), self.colour()
        for number, frame in enumerate(frames):
            left = number * 48 // count
            frame[16:32, left : left + 16] = square
        return frames

    def tone(self, seconds: float = 0.6, rate: int = 16_000, channels: int = 1) -> np.ndarray:
        """[t] or [t, channels] a sine, each time three semitones higher, up to four octaves."""
        self._count += 1
        return tone(220 * 2 ** (self._count % 16 / 4), rate, seconds, channels)

    def depth(self, height: int = 32, width: int = 40) -> np.ndarray:
        """[h, w] millimetres of a wall that is slanted, 1 to 8 metres away, with a hole that was not measured."""
        near, far = sorted(self._random.integers(1_000, 8_000, 2))
        depth = np.tile(np.linspace(near, far, width), (height, 1)).astype(np.uint16)
        depth[:2, :2] = 0
        return depth


def write_raw_datasets(root: Path, seed: int = 0, items_per_split: int = ITEMS) -> Path:
    """Writes all seven below `root`, the data root; returns it. Takes about a second and one megabyte."""
    if items_per_split < ITEMS:
        raise ValueError(f"A split should have at least {ITEMS} items, but items_per_split is {items_per_split}.")
    for write in WRITERS.values():
        write(root, seed, items_per_split)
    return root


def write_ucf101(root: Path, seed: int = 0, items: int = ITEMS) -> None:
    """AVI files of 12 frames at 12 per second; the last test video is in the folder `val`; hidden files lie about."""
    palette = Palette(seed)
    for split, start in (("train", 8), ("test", 1)):
        for number in range(items):
            name = UCF_CLASSES[number % len(UCF_CLASSES)]
            in_val = split == "test" and number == items - 1
            folder = root / "ucf101/UCF101" / ("val" if in_val else split) / name
            end = " (копия) 100%" if number == 1 else ""
            write_video(_fresh(folder / f"v_{name}_g{start + number:02d}_c01{end}.avi"), palette.frames(), 12)
            (folder / "._v_Hidden_g01_c01.avi").write_bytes(b"what another system leaves behind")


def write_esc50(root: Path, seed: int = 0, items: int = ITEMS) -> None:
    """Two Parquet files of several row groups; the last fifth of the rows of both together is the test split."""
    palette = Palette(seed + 1)
    total = max(5 * items, 10)
    rows = [_esc50_row(palette, number, total) for number in range(total)]
    for name, part in zip(ESC_FILES, (rows[: total // 2], rows[total // 2 :]), strict=True):
        write_esc50_file(root / "esc50/data" / name, part)


def write_esc50_file(path: Path, rows: Sequence[dict[str, object]]) -> None:
    """One file in row groups of three."""
    sound = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = {"filename": pa.string(), "fold": pa.int64(), "target": pa.int64(), "category": pa.string()}
    more = {"esc10": pa.bool_(), "src_file": pa.int64(), "take": pa.string(), "audio": sound}
    schema = pa.schema({**columns, **more})
    pq.write_table(pa.Table.from_pylist(list(rows), schema), _fresh(path), row_group_size=3)


def _esc50_row(palette: Palette, number: int, total: int) -> dict[str, object]:
    target = number % len(ESC_CATEGORIES)
    fold = 1 + 5 * number // total
    name = f"{fold}-{100_000 + number}-A-{target}.wav"
    audio = {"bytes": encoded(palette.tone(rate=44_100, seconds=0.25), 44_100), "path": None}
    return {
        "filename": name, "fold": fold, "target": target, "category": ESC_CATEGORIES[target], "esc10": False,
        "src_file": 100_000 + number, "take": "A", "audio": audio,
    }  # fmt: skip


def write_nyudv2(root: Path, seed: int = 0, items: int = ITEMS) -> None:
    """Pictures and 16-bit depth maps in millimetres; the test frames are numbered in `val/official`."""
    palette = Palette(seed + 2)
    train = [f"train/{SCENES[number % len(SCENES)]}/{number + 1:05d}" for number in range(items)]
    for frame in [*train, *(f"val/official/{number + 1:05d}" for number in range(items))]:
        folder = root / "nyu-d-2/raw_data" / frame
        palette.picture().save(_fresh(folder / "rgb.png"))
        Image.fromarray(palette.depth()).save(folder / "depth.png")


def write_clotho(root: Path, seed: int = 0, items: int = ITEMS) -> None:
    """WAV files, one of them stereo, with names that are not plain, and tables with five captions each."""
    palette = Palette(seed + 3)
    for split in ("development", "evaluation"):
        names = [CLOTHO_NAMES[n] if n < len(CLOTHO_NAMES) else f"sound {n}.wav" for n in range(items)]
        for number, name in enumerate(names):
            sound = palette.tone(rate=22_050, channels=2 if number == 1 else 1)
            write_audio(_fresh(root / "clotho" / split / name), sound, 22_050)
        table = [["file_name", *(f"caption_{k}" for k in range(1, 6))]]
        for number, name in enumerate(names):
            first = f"{CAPTIONS[number % len(CAPTIONS)]}, {split} {number}"
            table.append([name, first, *(f"another caption {k}" for k in range(2, 6))])
        write_csv(root / f"clotho/clotho_captions_{split}.csv", table)


def write_vggsound_s(root: Path, seed: int = 0, items: int = ITEMS) -> None:
    """MP4 files with sound. All but the first of a split have an MP3 too; a row of the table has no video."""
    palette = Palette(seed + 4)
    table: list[list[object]] = [
        ["gone--at-once", 7, VGG_LABELS[1], "train"],
        ["gone--at-once", 7, VGG_LABELS[1], "test"],
    ]
    for split in ("train", "test"):
        for number in range(items):
            youtube = f"{'-_'[number % 2]}-{split}{number:04d}"
            table.append([youtube, 10 * number, VGG_LABELS[number % len(VGG_LABELS)], split])
            name = f"{youtube}_{10 * number:06d}"
            sound = palette.tone(seconds=1.0, rate=44_100, channels=2)
            write_video(_fresh(root / VGG_ROOT / "video" / f"{name}.mp4"), palette.frames(), 12, audio=(sound, 44_100))
            if number:
                write_audio(_fresh(root / VGG_ROOT / "audio" / f"{name}.mp3"), sound, 44_100)
    write_csv(root / "vggsound/vggsound.csv", table)


def write_tvl(root: Path, seed: int = 0, items: int = ITEMS) -> None:
    """Four subsets with tables; ssvtp's test table has no tactile column, and a row of hct/data3 has no caption."""
    palette = Palette(seed + 5)
    each = math.ceil(items / len(TVL_SUBSETS))
    for part, subset in enumerate(TVL_SUBSETS):
        for split in ("train", "test"):
            pictures = [_tvl_pictures(subset, split, number) for number in range(each)]
            captions = [f"smooth, {('cool', 'soft', 'rough', 'wet')[part]}, {split} {n}.\r\n" for n in range(each)]
            for path in [path for pair in pictures for path in pair]:
                palette.picture().save(_fresh(root / "tvl/tvl_dataset" / subset / path), "JPEG")
            rows = [[vision, tactile, caption] for (vision, tactile), caption in zip(pictures, captions, strict=True)]
            head = ["url", "tactile", "caption"]
            if subset == "hct/data3":
                rows.insert(0, ["0-1702507215.615537/vision/none.jpg", "0-1702507215.615537/tactile/none.jpg", ""])
            if subset == "ssvtp" and split == "test":
                head, rows = ["url", "caption"], [[vision, caption] for vision, _, caption in rows]
            write_csv(root / "tvl/tvl_dataset" / subset / f"{split}.csv", [head, *rows])


def _tvl_pictures(subset: str, split: str, number: int) -> tuple[str, str]:
    """The paths of what the camera and the sensor see, relative to the subset's folder."""
    if subset == "ssvtp":
        number += 1_000 * (split == "test")
        return f"images_rgb/image_{number}_rgb.jpg", f"images_tac/image_{number}_tac.jpg"
    folder = f"{number}-1702507215.615537" if split == "train" else f"{number}-1702508888.5"
    return f"{folder}/vision/165-0.0253.jpg", f"{folder}/tactile/165-0.0253.jpg"


def write_llvip(root: Path, seed: int = 0, items: int = ITEMS) -> None:
    """JPEG pairs; the first infrared picture of a split is RGB with three equal channels, the others are grey."""
    palette = Palette(seed + 6)
    for split, start in (("train", 10_001), ("test", 190_001)):
        for number in range(items):
            name = f"{start + number:06d}.jpg"
            palette.picture().save(_fresh(root / "llvip/LLVIP/visible" / split / name), quality=90)
            infrared = palette.picture().convert("L")
            infrared = infrared.convert("RGB") if number == 0 else infrared
            infrared.save(_fresh(root / "llvip/LLVIP/infrared" / split / name), quality=90)


WRITERS: dict[str, Callable[[Path, int, int], None]] = {
    "ucf101": write_ucf101,
    "esc50": write_esc50,
    "nyudv2": write_nyudv2,
    "clotho": write_clotho,
    "vggsound_s": write_vggsound_s,
    "tvl": write_tvl,
    "llvip": write_llvip,
}
"""By the dataset's name, `write(root, seed, items)`."""


def encoded(samples: np.ndarray, rate: int) -> bytes:
    """The bytes of a WAV file."""
    import soundfile

    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV")
    return file.getvalue()


def write_csv(path: Path, rows: Iterable[Sequence[object]]) -> None:
    """A table in UTF-8."""
    with _fresh(path).open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows(rows)


def _fresh(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
