"""The pocket suite's media in their true layouts, a few items each."""

import io
import json
import struct
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from feature_cache.archives import STAMP, archive_named
from feature_cache.datasets.furniture import CATALOGUES

RATE, PERIOD = 44_000, 100
"""Of the tiny SoundFont's only sample: a sine of 440 Hz, MIDI key 69."""

EMOJI = {
    "😀": ("grinning face", "Smileys & Emotion"),
    "🍕": ("pizza", "Food & Drink"),
    "👨‍🍳": ("man cook", "People & Body"),
    "👩‍🍳": ("woman cook", "People & Body"),
    "🧑‍🍳": ("cook", "People & Body"),
    "❤️": ("red heart", "Smileys & Emotion"),
    "🇫🇷": ("flag France", "Flags"),
    "🦄": ("unicorn", "Animals & Nature"),
}
WITHOUT_PICTURE = "🦄"
FILES = ["1f600", "1f355", "1f468-200d-1f373", "1f469-200d-1f373", "1f9d1-200d-1f373", "2764", "1f1eb-1f1f7"]

CUBE = b"""# a cube of side 2
v -1 -1 -1
v 1 -1 -1
v 1 1 -1
v -1 1 -1
v -1 -1 1
v 1 -1 1
v 1 1 1
v -1 1 1
f 1 2 3 4
f 5 6 7 8
f 1 2 6 5
f 4 3 7 8
f 1 4 8 5
f 2 3 7 6
"""


def folder_of(data_root: Path, name: str) -> Path:
    """The folder of an archive, stamped as unpacked."""
    archive = archive_named(name)
    folder = archive.folder(data_root)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / STAMP).write_text(archive.sha256)
    return folder


def write_emoji(data_root: Path) -> None:
    assets = folder_of(data_root, "fluent-emoji-3d") / "package" / "assets"
    assets.mkdir(parents=True)
    for number, stem in enumerate(FILES):
        picture = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
        picture.putpixel((4, 4), (10 * number, 0, 0, 255))
        picture.save(assets / f"{stem}.webp", lossless=True)
    names = folder_of(data_root, "unicode-emoji-json") / "package"
    names.mkdir(parents=True)
    entries = {emoji: {"name": name, "group": group} for emoji, (name, group) in EMOJI.items()}
    (names / "data-by-emoji.json").write_text(json.dumps(entries), encoding="utf-8")


def furniture_folder(data_root: Path) -> Path:
    folder = folder_of(data_root, "sweethome3d-furniture") / "usr" / "share" / "sweethome3d" / "furniture"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_furniture(data_root: Path) -> None:
    """Three pieces in every catalogue: "Chair 1", "Chair 2" and one of its own, "Lamp A" to "Lamp E"."""
    for number, catalogue in enumerate(CATALOGUES):
        pieces = [("Chair 1", "Office"), ("Chair 2", "Office"), (f"Lamp {'ABCDE'[number]}", "Lights")]
        write_catalogue(furniture_folder(data_root) / catalogue.file, catalogue.declares + " license", pieces)


def write_catalogue(
    path: Path, license_line: str, pieces: Sequence[tuple[str, str]], model: bytes = CUBE, extra: str = ""
) -> None:
    lines = ["# comment=none", "", f"id=SweetHome3D#{path.stem}", f"license={license_line}"]
    with zipfile.ZipFile(path, "w") as archive:
        for number, (name, category) in enumerate(pieces, start=1):
            values = {
                "id": f"{path.stem}#{number}", "name": name, "category": category, "icon": f"/icons/{number}.png",
                "model": f"/models/{number}.obj", "width": "100.0", "depth": "50", "height": "200", "creator": "Jérôme",
            }  # fmt: skip
            lines += [f"{key}#{number}={value}" for key, value in values.items()]
            archive.writestr(f"models/{number}.obj", model)
            icon = io.BytesIO()
            Image.new("RGBA", (6, 6), (200, 0, 0, 255)).save(icon, "PNG")
            archive.writestr(f"icons/{number}.png", icon.getvalue())
        archive.writestr("PluginFurnitureCatalog.properties", "\r\n".join([*lines, extra]).encode("latin-1"))


def need_synthesizer() -> None:
    """Skips a test that plays notes where the synthesizer has no wheel; anywhere else its absence is a failure."""
    if sys.version_info >= (3, 13):
        pytest.importorskip("tinysoundfont")


def soundfont_path(data_root: Path) -> Path:
    folder = folder_of(data_root, "fluid-soundfont-gm") / "usr" / "share" / "sounds" / "sf2"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / "FluidR3_GM.sf2"


def write_soundfont(path: Path, programs: int = 128, highest_key_of_program_0: int = 127) -> None:
    """A valid SoundFont 2.1 whose programs all play a looped sine."""
    sine = np.round(20_000 * np.sin(2 * np.pi * np.arange(10 * PERIOD) / PERIOD)).astype("<i2")
    presets = b"".join(
        struct.pack("<20sHHHIII", f"program {i}".encode(), i, 0, i, 0, 0, 0) for i in range(programs)
    ) + struct.pack("<20sHHHIII", b"EOP", 0, 0, programs, 0, 0, 0)
    key_range, instrument, sample, loop_mode = 43, 41, 53, 54
    preset_generators = b"".join(struct.pack("<HH", instrument, min(i, 1)) for i in range(programs))
    zones = [
        [(key_range, highest_key_of_program_0 << 8), (loop_mode, 1), (sample, 0)],
        [(key_range, 127 << 8), (loop_mode, 1), (sample, 0)],
    ]
    header = struct.pack("<20sIIIIIBbHH", b"sine", 0, len(sine), PERIOD, 9 * PERIOD, RATE, 69, 0, 0, 1)
    pdta = {
        b"phdr": presets,
        b"pbag": b"".join(struct.pack("<HH", i, 0) for i in range(programs + 1)),
        b"pmod": bytes(10),
        b"pgen": preset_generators + bytes(4),
        b"inst": b"".join(struct.pack("<20sH", name, bag) for bag, name in enumerate([b"limited", b"free", b"EOI"])),
        b"ibag": b"".join(struct.pack("<HH", at, 0) for at in (0, 3, 6)),
        b"imod": bytes(10),
        b"igen": b"".join(struct.pack("<HH", *generator) for zone in zones for generator in zone) + bytes(4),
        b"shdr": header + struct.pack("<20sIIIIIBbHH", b"EOS", 0, 0, 0, 0, 0, 0, 0, 0, 0),
    }
    info = {b"ifil": struct.pack("<HH", 2, 1), b"isng": b"EMU8000\0", b"INAM": b"tiny\0\0"}
    body = (
        b"sfbk"
        + _chunk(b"LIST", b"INFO" + b"".join(_chunk(*entry) for entry in info.items()))
        + _chunk(b"LIST", b"sdta" + _chunk(b"smpl", sine.tobytes() + bytes(92)))
        + _chunk(b"LIST", b"pdta" + b"".join(_chunk(*entry) for entry in pdta.items()))
    )
    path.write_bytes(_chunk(b"RIFF", body))


def _chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content
