"""LanguageBind's preprocessing against torch, or transformers, doing what upstream's processors say."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import interpolate
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

from feature_cache.datasets.base import Clip, DepthMap, Waveform
from feature_cache.encoders.languagebind_preprocessing import (
    audio_spectra,
    chunk_starts,
    depth_pixels,
    picture_pixels,
    video_pixels,
)
from feature_cache.encoders.languagebind_snapshot import AudioShape
from tests.encoders.media import photo, picture, sound

SHAPE = AudioShape(rate=16_000, bins=112, frames=224, mean=-4.2677393, std=4.5689974)
SIZES = [(300, 400), (400, 300), (224, 224), (100, 61), (1, 1), (225, 226)]


def noise(height: int, width: int, seed: int = 0) -> Image.Image:
    """Smooth enough that no interpolation is all overshoot, and not symmetric in any way."""
    colours = np.random.default_rng(seed).integers(0, 256, (height, width, 3))
    return Image.fromarray(colours.astype(np.uint8))


def normalised(pixels: torch.Tensor) -> torch.Tensor:
    """[..., 3, h, w] with the mean and deviation of CLIP's pictures."""
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073], dtype=torch.float64)[:, None, None]
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711], dtype=torch.float64)[:, None, None]
    return (pixels - mean) / std


def cropped(pixels: torch.Tensor) -> torch.Tensor:
    top, left = (round((side - 224) / 2.0) for side in pixels.shape[-2:])
    return pixels[..., top : top + 224, left : left + 224]


def bicubic(channels: torch.Tensor) -> torch.Tensor:
    height, width = channels.shape[-2:]
    size = (224, int(224 * width / height)) if height <= width else (int(224 * height / width), 224)
    return interpolate(channels[None], size, mode="bicubic", antialias=True, align_corners=False)[0]


@pytest.mark.parametrize("height, width", SIZES)
def test_pictures_agree_with_torch(height: int, width: int) -> None:
    image = noise(height, width)
    unit = torch.from_numpy(np.array(image)).double().permute(2, 0, 1) / 255
    actual = picture_pixels(image)
    assert (actual.shape, actual.dtype) == ((3, 224, 224), np.float32)
    np.testing.assert_allclose(actual, normalised(cropped(bicubic(unit))), atol=2e-5)


def test_grey_and_transparent_pictures_count_as_rgb_and_deeper_ones_are_refused() -> None:
    grey = Image.fromarray(np.arange(0, 250, dtype=np.uint8).reshape(10, 25))
    np.testing.assert_array_equal(picture_pixels(grey), picture_pixels(grey.convert("RGB")))
    solid = picture("stove").convert("RGB")
    np.testing.assert_array_equal(picture_pixels(solid.convert("RGBA")), picture_pixels(solid))
    clear = picture_pixels(Image.new("RGBA", (30, 30), (0, 0, 0, 0)))
    np.testing.assert_array_equal(clear, picture_pixels(Image.new("RGB", (30, 30), "white")))
    for deep in (Image.new("I;16", (30, 30), 700), Image.new("F", (30, 30), 0.5), Image.new("I", (30, 30), 70_000)):
        with pytest.raises(ValueError, match="8 bits"):
            picture_pixels(deep)


@pytest.mark.parametrize("height, width", SIZES[1:5])
@pytest.mark.parametrize("farthest", [10.0, 4.0])
def test_depth_maps_agree_with_torch_on_millimetres(height: int, width: int, farthest: float) -> None:
    millimetres = np.random.default_rng(1).integers(0, 14_000, (height, width))
    millimetres[0, 0] = 1234  # so that the smallest map shows something
    millimetres.flat[1:30:3] = 0  # holes, as cameras leave them
    depth = torch.from_numpy(millimetres / 1000.0).clip(min=0.01).clip(max=farthest) / farthest
    expected = normalised(cropped(bicubic(depth[None])).repeat(3, 1, 1))
    metres = np.where(millimetres == 0, np.nan, millimetres / 1000).astype(np.float32)
    np.testing.assert_allclose(depth_pixels(DepthMap(metres, unit=1.0), farthest), expected, atol=2e-5)
    centimetres = DepthMap(metres * np.float32(100), unit=0.01)
    np.testing.assert_allclose(depth_pixels(centimetres, farthest), expected, atol=2e-5)


def test_what_is_nearer_than_a_centimetre_or_farther_than_the_farthest_is_cut_off() -> None:
    def value(metres: float) -> float:
        return float(depth_pixels(DepthMap(np.full((5, 5), metres, np.float32), unit=1.0), 10.0)[0].mean())

    assert value(0.001) == pytest.approx((0.001 - 0.48145466) / 0.26862954, abs=1e-5)
    far = np.array([[np.inf], [1.0]], np.float32).repeat([9, 1], 0).repeat(8, 1)
    assert depth_pixels(DepthMap(far, unit=1.0), 10.0)[0, 0, 0] == pytest.approx(value(10.0), abs=1e-5)
    assert value(25.0) == value(10.0) == pytest.approx((1 - 0.48145466) / 0.26862954, abs=1e-5)
    assert value(5.0) == pytest.approx((0.5 - 0.48145466) / 0.26862954, abs=1e-5)


@pytest.mark.parametrize("height, width", [(240, 320), (320, 240), (224, 224), (90, 61)])
@pytest.mark.parametrize("length, wanted", [(1, 4), (3, 4), (8, 8), (23, 8)])
def test_videos_agree_with_torch(height: int, width: int, length: int, wanted: int) -> None:
    clip = Clip([noise(height, width, seed) for seed in range(length)])
    indices = [math.floor(step * (length - 1) / (wanted - 1)) for step in range(wanted)]
    frames = torch.stack([torch.from_numpy(np.array(clip.frames[index])).double() / 255 for index in indices])
    size = (math.floor(height / width * 224), 224) if width < height else (224, math.floor(width / height * 224))
    resized = interpolate(normalised(frames.permute(0, 3, 1, 2)), size, mode="bilinear", align_corners=False)
    actual = video_pixels(clip, wanted)
    assert (actual.shape, actual.dtype) == ((3, wanted, 224, 224), np.float32)
    np.testing.assert_allclose(actual, cropped(resized).permute(1, 0, 2, 3), atol=2e-5)


def test_a_video_without_frames_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one frame"):
        video_pixels(Clip([]), 8)


def test_videos_are_never_mirrored() -> None:
    clip = Clip([photo("cat")] * 3)
    first = video_pixels(clip, 8)
    assert np.abs(first - first[..., ::-1]).max() > 1
    for _ in range(5):
        np.testing.assert_array_equal(video_pixels(clip, 8), first)


def kaldi(samples: np.ndarray, rate: int, bins: int) -> np.ndarray:
    """[frames bins] by transformers, as its own feature extractors replace torchaudio."""
    filters = mel_filter_bank(
        257, bins, 20, rate / 2, rate, norm=None, mel_scale="kaldi", triangularize_in_mel_space=True
    )
    return spectrogram(
        samples.astype(np.float64), window_function(400, "hann", periodic=False), 400, 160, 512, power=2.0,
        center=False, preemphasis=0.97, mel_filters=filters, log_mel="log", mel_floor=2.0**-23, remove_dc_offset=True,
        dtype=np.float64,
    ).T  # fmt: skip


def recording(seconds: float, rate: int = 16_000) -> Waveform:
    generator = np.random.default_rng(7)
    steps = np.arange(int(seconds * rate)) / rate
    tone = 0.3 * np.sin(2 * np.pi * (300 + 150 * steps) * steps) + 0.05
    return Waveform((tone + 0.02 * generator.standard_normal(len(steps))).astype(np.float32), rate)


def test_a_long_sound_gives_chunks_from_its_beginning_middle_and_end() -> None:
    waveform = recording(6)
    mel = kaldi(waveform.samples - waveform.samples.mean(), 16_000, 112)
    assert mel.shape == (598, 112)
    spectra = audio_spectra(waveform, SHAPE)
    assert (spectra.shape, spectra.dtype) == ((3, 112, 224), np.float32)
    # 375 beginnings: 0…124, 125…249, 250…374
    for chunk, start in zip(spectra, (62, 187, 312), strict=True):
        expected = (mel[start : start + 224].T + 4.2677393) / (2 * 4.5689974)
        np.testing.assert_allclose(chunk, expected, atol=1e-3)
    assert np.abs(spectra[0] - spectra[1]).max() > 0.1


def test_a_short_sound_is_repeated() -> None:
    waveform = recording(1)
    mel = kaldi(waveform.samples - waveform.samples.mean(), 16_000, 112)
    expected = (np.concatenate([mel, mel, mel])[:224].T + 4.2677393) / (2 * 4.5689974)
    for chunk in audio_spectra(waveform, SHAPE):
        np.testing.assert_allclose(chunk, expected, atol=1e-3)


def test_a_sound_of_just_a_chunk_is_three_times_the_same() -> None:
    spectra = audio_spectra(recording((223 * 160 + 400) / 16_000), SHAPE)
    np.testing.assert_array_equal(spectra[0], spectra[1])
    np.testing.assert_array_equal(spectra[0], spectra[2])


def test_another_rate_gives_nearly_the_same_spectra() -> None:
    low, high = (audio_spectra(recording(3, rate), SHAPE) for rate in (16_000, 48_000))
    np.testing.assert_allclose(low[:, 20:60].mean(2), high[:, 20:60].mean(2), atol=0.3)
    assert audio_spectra(sound("flute"), SHAPE).shape == (3, 112, 224)


def test_a_sound_shorter_than_a_window_is_refused_and_silence_is_not() -> None:
    with pytest.raises(ValueError, match="25 ms"):
        audio_spectra(Waveform(np.zeros(399, np.float32), 16_000), SHAPE)
    silence = audio_spectra(Waveform(np.zeros(8_000, np.float32), 16_000), SHAPE)
    np.testing.assert_allclose(silence, (math.log(2**-23) + 4.2677393) / (2 * 4.5689974), atol=1e-5)


@pytest.mark.parametrize("frames", [*range(224, 232), 300, 1998])
def test_chunks_begin_where_upstream_may_draw_them(frames: int) -> None:
    thirds = [list(third) or [0] for third in np.array_split(list(range(frames - 224 + 1)), 3)]
    starts = chunk_starts(frames, 224)
    assert all(start in third for start, third in zip(starts, thirds, strict=True))
    assert all(0 <= start <= frames - 224 for start in starts)
