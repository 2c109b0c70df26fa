from pathlib import Path

import numpy as np
import pytest
from PIL import Image, UnidentifiedImageError

from feature_cache.decoding.pictures import open_picture
from tests.raw_files import truncate, write_picture

COLOURS = np.random.default_rng(0).integers(0, 256, (20, 30, 4), np.uint8)


@pytest.mark.parametrize(
    "pixels, mode",
    [
        (COLOURS[..., :3], "RGB"),
        (COLOURS, "RGBA"),
        (COLOURS[..., 0], "L"),
        (COLOURS[..., 0].astype(np.uint16) * 257, "I;16"),
    ],
)
def test_pixels_and_mode_are_the_files(tmp_path: Path, pixels: np.ndarray, mode: str) -> None:
    path = write_picture(tmp_path / "a.png", pixels)
    for source in (path, path.read_bytes()):
        picture = open_picture(source)
        assert picture.mode == mode
        np.testing.assert_array_equal(np.asarray(picture), pixels)


def test_a_palette_stays_a_palette(tmp_path: Path) -> None:
    Image.fromarray(COLOURS[..., :3]).quantize(16).save(tmp_path / "a.png")
    assert open_picture(tmp_path / "a.png").mode == "P"


def test_a_picture_taken_sideways_is_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned so that the first row of pixels is the right side
    path = write_picture(tmp_path / "a.png", COLOURS[..., :3], exif=exif)
    np.testing.assert_array_equal(np.asarray(open_picture(path)), np.rot90(COLOURS[..., :3], -1))


def test_the_picture_needs_its_file_no_more(tmp_path: Path) -> None:
    path = write_picture(tmp_path / "a.jpg", COLOURS[..., :3])
    picture = open_picture(path)
    path.unlink()
    assert picture.resize((3, 2)).size == (3, 2)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".tiff"])
@pytest.mark.parametrize("share", [0.9, 0.5, 0.02])
def test_a_truncated_picture_is_refused(tmp_path: Path, suffix: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (80, 90, 3), np.uint8)
    path = write_picture(tmp_path / f"a{suffix}", noise)
    open_picture(path)
    with pytest.raises(OSError):
        open_picture(truncate(path, share))


def test_what_is_no_picture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "empty.png").touch()
    for name in ("text.png", "empty.png"):
        with pytest.raises(UnidentifiedImageError):
            open_picture(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        open_picture(tmp_path / "none.png")
