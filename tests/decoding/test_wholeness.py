"""A file that was cut off is refused, wherever it was cut, unless nothing is lost."""

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

from feature_cache.decoding.audio import open_waveform
from feature_cache.decoding.video import open_video
from feature_cache.decoding.wholeness import check_whole
from tests.raw_files import stack, tone, write_audio, write_video

CUTS = np.linspace(0, 1, 61)[:-1]
NOISE = np.random.default_rng(0).integers(0, 256, (6, 48, 64, 3), np.uint8)


@pytest.mark.parametrize("suffix", ["wav", "flac", "mp3", "m4a", "webm", "mkv"])
def test_a_sound_is_refused_or_complete(tmp_path: Path, suffix: str) -> None:
    content = write_audio(tmp_path / f"a.{suffix}", tone(440, 48_000, 0.3, 2), 48_000).read_bytes()
    samples, refused = open_waveform(content).samples, 0
    for length in [*(int(cut * len(content)) for cut in CUTS), len(content) - 1]:
        try:
            np.testing.assert_array_equal(open_waveform(content[:length]).samples, samples)
        except ValueError:
            refused += 1
    assert refused > 50


@pytest.mark.parametrize("suffix", ["avi", "mp4", "mov", "webm", "mkv"])
def test_a_video_is_refused_or_complete(tmp_path: Path, suffix: str) -> None:
    path = write_video(tmp_path / f"a.{suffix}", NOISE)
    content, frames, refused = path.read_bytes(), stack(open_video(path).pick(range(6))), 0
    for length in [*(int(cut * len(content)) for cut in CUTS), len(content) - 1]:
        path.write_bytes(content[:length])
        try:
            np.testing.assert_array_equal(stack(open_video(path).pick(range(6))), frames)
        except ValueError:
            refused += 1
    assert refused > 50


def test_ogg_is_refused_within_a_page(tmp_path: Path) -> None:
    content = write_audio(tmp_path / "a.ogg", tone(440, 48_000, 0.3), 48_000).read_bytes()
    check_whole(BytesIO(content))
    pages = [n for n in range(len(content)) if content[n : n + 4] == b"OggS"]
    assert len(pages) > 2
    for length in (pages[1] - 1, pages[-1] + 5, pages[-1] + 27, pages[-1] + 30, len(content) - 1):
        with pytest.raises(ValueError, match="ends too early"):
            check_whole(BytesIO(content[:length]))


def test_a_size_that_a_pipe_could_not_know_is_no_promise(tmp_path: Path) -> None:
    content = write_audio(tmp_path / "a.wav", tone(440, 48_000, 0.3), 48_000).read_bytes()
    size = content.index(b"data") + 4
    for unknown in (0xFFFFFFFF, 0x7FFFFFFF):
        check_whole(BytesIO(content[:size] + unknown.to_bytes(4, "little") + content[size + 4 :]))
    with pytest.raises(ValueError, match="ends too early"):
        check_whole(BytesIO(content[:size] + (len(content) + 1).to_bytes(4, "little") + content[size + 4 :]))
    box = write_video(tmp_path / "a.mp4", NOISE, container_options={"movflags": "faststart"}).read_bytes()
    size = box.index(b"mdat") - 4
    check_whole(BytesIO(box[:size] + bytes(4) + box[size + 4 : -100]))  # 0: to the end of the file


def test_an_empty_file_is_refused_and_an_unknown_one_is_somebody_elses_matter() -> None:
    with pytest.raises(ValueError, match="0 bytes"):
        check_whole(BytesIO())
    for content in (b"x", b"plain text, of which nobody knows the end", b"RIFF", b"OggS", b"\x1a\x45\xdf\xa3"):
        try:
            check_whole(BytesIO(content))
        except ValueError as error:
            assert "ends too early" in str(error)
