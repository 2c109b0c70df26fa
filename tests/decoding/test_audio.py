from pathlib import Path

import av
import numpy as np
import pytest

from feature_cache.decoding.audio import open_waveform
from tests.raw_files import moving_square, tone, truncate, write_audio, write_video

RATE = 48_000


def write(path: Path, samples: np.ndarray) -> Path:
    if path.suffix in (".avi", ".mp4", ".mov"):
        return write_video(path, moving_square(12), 10, (samples, RATE))
    return write_audio(path, samples, RATE)


@pytest.mark.parametrize("channels", [1, 2, 6])
@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3", "m4a", "mp4", "mov", "webm", "mkv", "avi"])
def test_the_first_channel_is_heard_from_every_container(tmp_path: Path, suffix: str, channels: int) -> None:
    if suffix in ("mp3", "avi") and channels == 6:
        pytest.skip("mp3 has at most two channels")
    samples = tone(440, RATE, 1.2, channels)
    path = write(tmp_path / f"a.{suffix}", samples)
    for source in (path, path.read_bytes()):
        waveform = open_waveform(source)
        assert waveform.rate == RATE
        assert waveform.samples.dtype == np.float32
        assert waveform.samples.flags.c_contiguous
        assert len(samples) <= waveform.samples.size <= len(samples) + 3000  # what the codec adds to fill its frames
        spectrum = np.abs(np.fft.rfft(waveform.samples[4800:52_800]))  # 1 Hz a bin
        assert spectrum.argmax() == 440
        assert spectrum[[880, 1320, 1760, 2200, 2640]].max() < 0.02 * spectrum[440]  # what the other channels play


@pytest.mark.parametrize("suffix", ["ogg", "mp3", "m4a", "mp4", "webm", "mkv"])
def test_a_compressed_sound_begins_where_the_sound_does(tmp_path: Path, suffix: str) -> None:
    samples = np.zeros(RATE, np.float32)
    samples[20_000:24_000] = tone(1000, RATE, 4000 / RATE)
    decoded = open_waveform(write(tmp_path / f"a.{suffix}", samples)).samples[:RATE]
    shifts = {shift: float(np.roll(decoded, -shift) @ samples) for shift in range(-30, 31)}
    assert max(shifts, key=lambda shift: shifts[shift]) == 0


LOSSLESS = {
    "PCM_U8": (2**-7, ["wav"]),
    "PCM_16": (2**-15, ["wav", "flac"]),
    "PCM_24": (2**-23, ["wav", "flac"]),
    "FLOAT": (0, ["wav"]),
    "DOUBLE": (0, ["wav"]),
}


@pytest.mark.parametrize("subtype", LOSSLESS)
def test_lossless_samples_are_the_ones_written(tmp_path: Path, subtype: str) -> None:
    samples = np.random.default_rng(0).uniform(-0.9, 0.9, (1001, 2)).astype(np.float32)
    step, suffixes = LOSSLESS[subtype]
    for suffix in suffixes:
        path = write_audio(tmp_path / f"a.{suffix}", samples, 44_100, subtype)
        np.testing.assert_allclose(open_waveform(path).samples, samples[:, 0], atol=1.01 * step, rtol=0)


@pytest.mark.parametrize("share", [0.95, 0.5, 0.1, 0.01])
@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3", "m4a", "mp4", "webm", "mkv", "avi"])
def test_a_truncated_sound_is_refused(tmp_path: Path, suffix: str, share: float) -> None:
    noise = 0.1 * np.random.default_rng(0).standard_normal((RATE, 2)).astype(np.float32)
    path = write(tmp_path / f"a.{suffix}", noise)
    open_waveform(path)
    with pytest.raises(ValueError, match="ends too early|is damaged|can decode the sound"):
        open_waveform(truncate(path, share))


def test_an_mp3_without_its_length_is_no_truncated_one(tmp_path: Path) -> None:
    path = tmp_path / "a.mp3"
    samples = tone(440, 44_100, 5) * np.linspace(0, 1, 5 * 44_100, dtype=np.float32)
    with av.open(str(path), "w", options={"write_xing": "0"}) as container:
        stream = container.add_stream("libmp3lame", rate=44_100, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 44_100, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert b"Info" not in path.read_bytes()
    assert open_waveform(path).samples.size == pytest.approx(len(samples), abs=3000)


def test_samples_have_to_be_there_and_finite(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no samples"):
        open_waveform(write_audio(tmp_path / "none.wav", np.zeros(0, np.float32), RATE))
    broken = np.array([0, np.nan, np.inf, 0.5], np.float32)
    with pytest.raises(ValueError, match="2 of 4 samples are not finite"):
        open_waveform(write_audio(tmp_path / "nan.wav", broken, RATE, "FLOAT"))


def test_what_is_no_sound_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("not a sound, but quite long a text\n" * 100)
    with pytest.raises(ValueError, match="Neither libsndfile .* nor FFmpeg .* can decode"):
        open_waveform(tmp_path / "text.wav")
    (tmp_path / "empty.wav").touch()
    for source in (tmp_path / "empty.wav", b""):
        with pytest.raises(ValueError, match="0 bytes"):
            open_waveform(source)
    with pytest.raises(ValueError, match="no sound track"):
        open_waveform(write_video(tmp_path / "silent.mp4", moving_square(3)))
    with pytest.raises(FileNotFoundError):
        open_waveform(tmp_path / "none.wav")
