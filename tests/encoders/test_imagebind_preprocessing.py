"""ImageBind's preprocessing against formulas, other libraries, and what upstream's rules give by hand."""

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from feature_cache.datasets.base import Clip, DepthMap, Video, Waveform
from feature_cache.encoders import imagebind_preprocessing as pre
from feature_cache.encoders.front_ends.kaldi_fbank import kaldi_fbank

MEAN = np.array([0.48145466, 0.4578275, 0.40821073])
STD = np.array([0.26862954, 0.26130258, 0.27577711])
RNG = np.random.default_rng(0)


def noise(height: int, width: int, channels: int = 3) -> Image.Image:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return Image.fromarray(RNG.integers(0, 256, shape, np.uint8))


def standardized(rgb: np.ndarray) -> np.ndarray:
    """[h w 3] of 0…255 -> [3 h w] as CLIP has it, in float64."""
    return ((rgb / 255 - MEAN) / STD).transpose(2, 0, 1)


def resized(planes: np.ndarray, height: int, width: int, mode: str) -> np.ndarray:
    """By torch: [c h w] in float64."""
    tensor = torch.from_numpy(np.asarray(planes, np.float64))[None]
    smooth = mode == "bicubic"
    return torch.nn.functional.interpolate(tensor, (height, width), mode=mode, antialias=smooth)[0].numpy()


# --- pictures


def test_a_wide_picture_is_its_middle_with_its_height_as_224() -> None:
    image = noise(100, 250)
    found = pre.picture(image)
    assert (found.shape, found.dtype) == ((3, 224, 224), np.float32)
    small = np.asarray(image.resize((560, 224), Image.Resampling.BICUBIC), np.float64)[:, 168:392]
    np.testing.assert_allclose(found, standardized(small), atol=1e-6)


def test_a_tall_picture_agrees_with_torchs_smoothed_bicubic_interpolation() -> None:
    image = Image.fromarray(RNG.integers(90, 166, (701, 448, 3), np.uint8))  # no overshoot that Pillow would clip
    expected = resized(np.asarray(image).transpose(2, 0, 1), 350, 224, "bicubic")[:, 63:287]
    found = pre.picture(image) * STD[:, None, None] + MEAN[:, None, None]
    np.testing.assert_allclose(found, expected / 255, atol=1.1 / 255)  # Pillow rounds to 8 bits twice


def test_pictures_of_every_mode_show_the_same() -> None:
    grey = noise(224, 224, 1)
    rgb = Image.merge("RGB", [grey] * 3)
    expected = pre.picture(rgb)
    half_clear = rgb.copy()
    half_clear.putalpha(Image.new("L", (224, 224), 128))
    palette = grey.convert("P")
    transparent = grey.convert("P")
    transparent.info["transparency"] = bytes(range(256))
    sixteen = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    for image in (grey, half_clear, grey.convert("LA"), palette, transparent, sixteen, sixteen.convert("I")):
        np.testing.assert_array_equal(pre.picture(image), expected, err_msg=image.mode)
    assert np.ptp(expected) > 3


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (900, 2), (224, 224)])
def test_pictures_of_strange_sizes_have_the_shape_of_all(size: tuple[int, int]) -> None:
    found = pre.picture(Image.new("RGB", size, (255, 0, 127)))
    expected = standardized(np.array([[[255, 0, 127]]]))
    np.testing.assert_allclose(found, np.broadcast_to(expected, (3, 224, 224)), atol=1e-5)


def test_a_thermal_picture_is_grey_from_minus_one_to_one() -> None:
    image = Image.new("RGB", (300, 240))
    image.paste((255, 255, 255), (0, 0, 150, 240))
    found = pre.thermal_picture(image)
    assert (found.shape, found.dtype) == ((1, 224, 224), np.float32)
    assert (found[0, :, :100] == 1).all()
    assert (found[0, :, 125:] == -1).all()
    colour = pre.thermal_picture(Image.new("RGB", (224, 224), (200, 100, 50)))
    luma = 0.299 * 200 + 0.587 * 100 + 0.114 * 50  # ITU-R 601
    np.testing.assert_allclose(colour, 2 * luma / 255 - 1, atol=1.01 / 255)
    grey = noise(224, 224, 1)
    np.testing.assert_allclose(pre.thermal_picture(grey)[0], np.asarray(grey) / 127.5 - 1, atol=1e-6)


# --- depth


def test_depth_is_in_tens_of_metres_and_1_if_farther_and_0_if_not_measured() -> None:
    metres = np.full((224, 300), 2.5, np.float32)
    metres[:, 100:] = 12
    metres[:, 180:] = np.inf
    metres[:, 220:] = np.nan
    found = pre.depth_map(DepthMap(metres, unit=1.0))
    assert (found.shape, found.dtype) == ((1, 224, 224), np.float32)
    np.testing.assert_array_equal(found[0, :, :62], 0.25)  # 38 columns are cut off
    np.testing.assert_array_equal(found[0, :, 62:182], 1)
    np.testing.assert_array_equal(found[0, :, 182:], 0)
    millimetres = pre.depth_map(DepthMap(metres * 1000, unit=0.001))
    np.testing.assert_allclose(millimetres, found, atol=1e-6)


def test_a_depth_map_agrees_with_torchs_smoothed_bicubic_interpolation() -> None:
    metres = RNG.uniform(0.5, 9, (480, 640)).astype(np.float32)
    expected = resized(metres[None] / 10, 224, 298, "bicubic")[:, :, 37:261]
    np.testing.assert_allclose(pre.depth_map(DepthMap(metres, unit=1.0)), expected, atol=1e-5)


def test_impossible_depths_are_refused() -> None:
    for depth in (np.zeros((4, 4)), np.full((4, 4), np.nan), np.ones(4), np.full((4, 4), np.inf)):
        with pytest.raises(ValueError, match="depth map"):
            pre.depth_map(DepthMap(depth.astype(np.float32), unit=1.0))


# --- sound

SILENCE = (math.log(np.finfo(np.float32).eps) + 4.268) / 9.138
PADDING = 4.268 / 9.138


def tone(seconds: float, rate: int = 16_000, hertz: float = 1000.0) -> Waveform:
    t = np.arange(round(seconds * rate)) / rate
    return Waveform((0.5 * np.sin(2 * np.pi * hertz * t)).astype(np.float32), rate)


@pytest.mark.parametrize("seconds", [2.0, 5.0, 11.3])
def test_silence_is_the_floor_and_what_is_filled_up_is_zero_before_scaling(seconds: float) -> None:
    found = pre.sound(Waveform(np.zeros(round(seconds * 16_000), np.float32), 16_000), 128, 204)
    assert (found.shape, found.dtype) == ((3, 1, 128, 204), np.float32)
    np.testing.assert_allclose(found[..., :198], SILENCE, atol=1e-6)
    np.testing.assert_allclose(found[..., 198:], PADDING, atol=1e-6)


@pytest.mark.parametrize(
    ("seconds", "starts"), [(3.5, [0, 12_000, 24_000]), (5.0, [0, 24_000, 48_000]), (8.0, [0, 48_000, 96_000])]
)
@pytest.mark.parametrize("offset", [0.0, 0.3])
def test_the_clips_are_the_first_the_middle_and_the_last_two_seconds(
    seconds: float, starts: list[int], offset: float
) -> None:
    count = round(seconds * 16_000)
    samples = (offset + RNG.normal(size=count) * np.linspace(0.01, 0.5, count)).astype(np.float32)
    before = samples.copy()
    found = pre.sound(Waveform(samples, 16_000), 128, 204)
    np.testing.assert_array_equal(samples, before)
    left = before.astype(np.float64)  # of the sound: upstream's clips share its memory, and are centred one by one
    for clip, start in zip(found, starts, strict=True):
        left[start : start + 32_000] -= left[start : start + 32_000].mean()
        expected = (kaldi_fbank(left[start : start + 32_000].astype(np.float32), 16_000, 128).T + 4.268) / 9.138
        np.testing.assert_allclose(clip[0, :, :198], expected, atol=2e-4)


def test_a_tone_is_loudest_in_the_band_of_its_frequency() -> None:
    def mel(hertz: float) -> float:
        return 1127 * math.log(1 + hertz / 700)

    centres = np.linspace(mel(20), mel(8000), 130)[1:-1]
    for hertz in (440.0, 1000.0, 4000.0):
        found = pre.sound(tone(3, hertz=hertz), 128, 204)[0, 0, :, 100]
        assert abs(found.argmax() - np.abs(centres - mel(hertz)).argmin()) <= 1
        assert found.max() > np.median(found) + 0.5


def test_sounds_of_other_rates_are_resampled() -> None:
    expected = pre.sound(tone(3), 128, 204)[..., 2:190]
    for rate in (48_000, 44_100, 22_050):
        found = pre.sound(tone(3, rate), 128, 204)[..., 2:190]
        loud = expected > expected.max() - 0.6
        assert loud.sum() > 500
        np.testing.assert_allclose(found[loud], expected[loud], atol=0.02)


@pytest.mark.parametrize(("samples", "frames"), [(3200, 18), (400, 1), (399, 1), (1, 1)])
def test_a_short_sound_is_all_of_each_clip(samples: int, frames: int) -> None:
    found = pre.sound(Waveform(RNG.normal(size=samples).astype(np.float32), 16_000), 128, 204)
    np.testing.assert_allclose(found[1:], found[[0, 0]], atol=1e-4)
    assert (np.abs(found[0, 0, :, :frames] - PADDING) > 1e-4).any(0).all()
    np.testing.assert_allclose(found[..., frames:], PADDING, atol=1e-6)


def test_a_sound_without_finite_samples_is_refused() -> None:
    for samples in ([], [0.0, np.nan], [np.inf]):
        with pytest.raises(ValueError, match="finite samples"):
            pre.sound(Waveform(np.array(samples, np.float32), 16_000), 128, 204)
    with pytest.raises(ValueError, match="0 a second"):
        pre.sound(Waveform(np.zeros(100, np.float32), 0), 128, 204)


# --- video


class Counted(Video):
    """Frames whose colour is their number; remembers what was picked."""

    def __init__(self, frames: int, rate: float, size: tuple[int, int] = (224, 224)) -> None:
        self.frames, self.rate, self.size = frames, rate, size
        self.picked: list[Sequence[int]] = []

    def __len__(self) -> int:
        return self.frames

    def pick(self, indices: Sequence[int]) -> list[Image.Image]:
        self.picked.append(list(indices))
        return [Image.new("RGB", self.size, (index, 0, 255)) for index in indices]


@given(st.integers(1, 2000), st.integers(1, 120))
def test_a_clip_has_the_frames_that_begin_in_it(frames: int, rate: int) -> None:
    last_start = max(Fraction(frames, rate) - 2, Fraction(0))
    pairs = pre.frame_pairs(frames, float(rate))
    for number, (first, last) in enumerate(pairs):
        start = last_start * number / 4
        inside = [index for index in range(frames) if start <= Fraction(index, rate) < start + 2]
        # upstream's float arithmetic may count a frame at the very border to the other side
        assert abs(first - inside[0]) <= 1
        assert abs(last - inside[-1]) <= 1
    assert pairs[0][0] == 0
    assert pairs[-1][1] == frames - 1


@pytest.mark.parametrize(
    ("frames", "rate", "expected"),
    [
        (250, 25.0, [(0, 49), (50, 99), (100, 149), (150, 199), (200, 249)]),
        (75, 25.0, [(0, 49), (7, 56), (13, 62), (19, 68), (25, 74)]),
        (40, 25.0, [(0, 39)] * 5),
        (1, 0.01, [(0, 0)] * 5),
        (3, 0.1, [(0, 0), (1, 1), (2, 2), (2, 2), (2, 2)]),
    ],
)
def test_the_frames_of_a_video(frames: int, rate: float, expected: list[tuple[int, int]]) -> None:
    assert pre.frame_pairs(frames, rate) == expected
    video = Counted(frames, rate)
    found = pre.video_clips(video)
    assert (found.shape, found.dtype) == ((15, 3, 2, 224, 224), np.float32)
    assert video.picked == [sorted({index for pair in expected for index in pair})]
    red = np.rint((found[::3, 0, :, 100, 100] * STD[0] + MEAN[0]) * 255)
    np.testing.assert_array_equal(red, expected)


@pytest.mark.parametrize("tall", [False, True])
def test_a_frame_agrees_with_torchs_bilinear_interpolation_in_each_part(tall: bool) -> None:
    height, width = (500, 320) if tall else (90, 160)
    image = noise(height, width)
    found = pre.video_clips(Clip([image]))
    size = (350, 224) if tall else (224, 398)
    planes = resized(np.asarray(image).transpose(2, 0, 1) / 255, *size, "bilinear")
    whole = (planes - MEAN[:, None, None]) / STD[:, None, None]
    starts = (0, 63, 126) if tall else (0, 87, 174)
    for part, start in enumerate(starts):
        expected = whole[:, start : start + 224] if tall else whole[:, :, start : start + 224]
        for clip, frame in ((0, 0), (4, 1)):
            np.testing.assert_allclose(found[3 * clip + part, :, frame], expected, atol=1e-4)


def test_grey_frames_are_shown_and_a_video_without_frames_is_refused() -> None:
    assert pre.video_clips(Clip([noise(300, 300, 1)])).shape == (15, 3, 2, 224, 224)
    for video in (Clip([]), Counted(3, 0.0), Counted(3, math.inf), Counted(3, math.nan)):
        with pytest.raises(ValueError, match="at least one frame"):
            pre.video_clips(video)


# --- text


def test_texts_become_clips_tokens() -> None:
    """The ids are those of OpenAI's tokenizer: "a photo of a cat"."""
    expected = [49406, 320, 1125, 539, 320, 2368, 49407]
    found = pre.text_tokens("A photo  of\na cat")
    assert (found.shape, found.dtype) == ((77,), np.int64)
    assert found.tolist() == expected + [0] * 70
    assert pre.text_tokens("").tolist() == [49406, 49407] + [0] * 75
    assert pre.text_tokens("cat " * 100).tolist() == [49406] + [2368] * 75 + [49407]


def test_any_script_has_tokens() -> None:
    for text in ("😀", "שלום עולם", "猫", "ﬁ\u200d\x00", "<|endoftext|>"):
        tokens = pre.text_tokens(text)
        assert tokens.max() == 49407
        assert tokens[0] == 49406
