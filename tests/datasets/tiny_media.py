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
import soundfile
from PIL import Image

from feature_cache.datasets.pocket.archives import STAMP, archive_named
from feature_cache.datasets.pocket.exercises import EXERCISES
from feature_cache.datasets.pocket.furniture import CATALOGUES
from feature_cache.datasets.pocket.sound_names import CAPTIONS

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
    "🚀": ("rocket", "Travel & Places"),
    "👻": ("ghost", "Smileys & Emotion"),
    "🔑": ("key", "Objects"),
    "♻️": ("recycling symbol", "Symbols"),
}
WITHOUT_PICTURE = "🦄"
FILES = ["1f600", "1f355", "1f468-200d-1f373", "1f469-200d-1f373", "1f9d1-200d-1f373", "2764", "1f1eb-1f1f7"]
FILES += ["1f680", "1f47b", "1f511", "267b"]

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


def write_emoji_styles(data_root: Path) -> None:
    """The same emoji as PNG in two styles, one of them with variation selectors in its names, and as SVG."""
    for name, folder, files in (
        ("noto-emoji", "img/google/64", [stem.replace("2764", "2764-fe0f") for stem in FILES]),
        ("twemoji", "img/twitter/64", FILES),
    ):
        pictures = folder_of(data_root, name) / "package" / folder
        pictures.mkdir(parents=True)
        for stem in files:
            picture = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
            picture.putpixel((1, 1), (0, 0, 200, 255))
            picture.save(pictures / f"{stem}.png")
    assets = folder_of(data_root, "fluent-emoji-flat") / "package" / "assets"
    assets.mkdir(parents=True)
    square = '<rect width="16" height="32" fill="#ff0000"/>'
    for stem in FILES:
        (assets / f"{stem}.svg").write_text(
            f'<svg viewBox="0 0 32 32" xmlns="http://www.w3.org/2000/svg">{square}</svg>'
        )


def write_emoji_clips(data_root: Path) -> None:
    """Frame i of a clip of 12 is i · 20 grey all over; every package also has a file with a single picture."""
    frames = [Image.new("RGB", (8, 8), (20 * i,) * 3) for i in range(12)]
    for part, stems in enumerate((FILES[:3], FILES[3:6], FILES[6:9], FILES[9:]), start=1):
        assets = folder_of(data_root, f"fluent-emoji-anim-{part}") / "package" / "assets"
        assets.mkdir(parents=True)
        for stem in stems[:-1]:
            frames[0].save(assets / f"{stem}.webp", save_all=True, append_images=frames[1:], lossless=True)
        frames[0].save(assets / f"{stems[-1]}.webp", lossless=True)


def sounds_folder(data_root: Path) -> Path:
    folder = folder_of(data_root, "sonic-pi-samples") / "usr" / "share" / "sonic-pi" / "samples"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_sounds(data_root: Path) -> None:
    """Every sample as a tenth of a second of stereo, left 0.5 and right 0."""
    for name in CAPTIONS:
        soundfile.write(sounds_folder(data_root) / f"{name}.flac", np.tile([0.5, 0.0], (800, 1)), 8_000)


def exercises_file(data_root: Path) -> Path:
    folder = folder_of(data_root, "seglearn") / "seglearn" / "data"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / "watch_dataset.npy"


def write_exercises(data_root: Path) -> None:
    """Ten people, each doing two exercises for 9 seconds; sample i of a recording is i / 1000 on all axes."""
    recording = np.tile(np.arange(450)[:, None] / 1000, 6)
    content = {
        "X": [recording] * 20,
        "y": np.arange(20) % 7,
        "y_labels": list(EXERCISES),
        "subject": np.repeat(np.arange(1.0, 11.0), 2),
    }
    np.save(exercises_file(data_root), np.array(content, dtype=object), allow_pickle=True)


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
