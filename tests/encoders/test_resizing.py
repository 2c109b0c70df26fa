"""Geometry and pixels of pictures, against torch."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.nn.functional import interpolate

from feature_cache.encoders.front_ends.resizing import (
    bicubic_antialiased,
    bilinear,
    center_crop,
    clip_pixels,
    picture_shape,
    planes,
    short_side,
    three_crops,
    video_planes,
    video_shape,
)
from tests.encoders.media import photo

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("shape", [(50, 75), (75, 50), (224, 298), (23, 23), (300, 31), (1, 1)])
@pytest.mark.parametrize("target", [(224, 298), (30, 20), (51, 75), (1, 1)])
def test_bilinear_agrees_with_torch(shape: tuple[int, int], target: tuple[int, int]) -> None:
    frames = RANDOM.random((2, 3, *shape), np.float32)
    expected = interpolate(torch.from_numpy(frames), size=target, mode="bilinear", align_corners=False).numpy()
    resized = bilinear(frames, *target)
    assert resized.dtype == np.float32
    np.testing.assert_allclose(resized, expected, atol=2e-5)
    np.testing.assert_array_equal(bilinear(frames[0, 0], *target), resized[0, 0])


@pytest.mark.parametrize("shape", [(300, 400), (400, 300), (64, 64), (90, 700), (40, 50)])
@pytest.mark.parametrize("size", [64, 224])
def test_bicubic_agrees_with_torch(shape: tuple[int, int], size: int) -> None:
    channels = RANDOM.random((3, *shape), np.float32)
    resized = bicubic_antialiased(channels, size)
    target = (size, size * shape[1] // shape[0]) if shape[0] <= shape[1] else (size * shape[0] // shape[1], size)
    assert resized.shape == (3, *target)
    expected = interpolate(
        torch.from_numpy(channels)[None], size=target, mode="bicubic", align_corners=False, antialias=True
    )
    np.testing.assert_allclose(resized, expected[0].numpy(), atol=1e-4)  # torch rounds places to float32


def test_bicubic_overshoots_an_edge() -> None:
    edge = np.zeros((1, 64, 64), np.float32)
    edge[:, :, 32:] = 1
    resized = bicubic_antialiased(edge, 40)
    assert resized.max() > 1.005
    assert resized.min() < -0.005


@given(height=st.integers(1, 3000), width=st.integers(1, 3000), size=st.integers(1, 600))
def test_the_shorter_side_has_the_size_and_the_ratio_stays(height: int, width: int, size: int) -> None:
    for shape in (picture_shape, video_shape):
        new_height, new_width = shape(height, width, size)
        assert min(new_height, new_width) == size
        longer = size * max(height, width) / min(height, width)
        assert longer - 1 - 1e-6 < max(new_height, new_width) <= longer + 1e-6
        assert (new_height > new_width) <= (height > width)
    exact = size * max(height, width) // min(height, width)
    assert max(picture_shape(height, width, size)) == exact


def test_the_two_rules_differ_where_division_rounds_down() -> None:
    assert picture_shape(112, 122, 224) == (224, 244)
    assert video_shape(112, 122, 224) == (224, math.floor(122 / 112 * 224)) == (224, 243)
    assert picture_shape(122, 112, 224) == (244, 224)
    assert video_shape(122, 112, 224) == (243, 224)


@pytest.mark.parametrize("shape", [(0, 5), (5, 0)])
def test_nothing_cannot_be_resized(shape: tuple[int, int]) -> None:
    for rule in (picture_shape, video_shape):
        with pytest.raises(ValueError, match="cannot be resized"):
            rule(*shape, 224)


def test_a_picture_is_resized_by_pillow_and_left_alone_at_its_size() -> None:
    picture = photo("cat").convert("RGB")
    resized = short_side(picture, 50)
    assert min(resized.size) == 50
    assert resized.tobytes() == picture.resize(resized.size, Image.Resampling.BICUBIC).tobytes()
    assert short_side(resized, 50) is resized
    nearest = short_side(picture, 50, Image.Resampling.NEAREST)
    assert nearest.tobytes() == picture.resize(resized.size, Image.Resampling.NEAREST).tobytes() != resized.tobytes()


@pytest.mark.parametrize("height, width, size", [(10, 13, 4), (9, 9, 4), (7, 4, 4), (11, 8, 3), (4, 4, 4)])
def test_the_middle_is_where_torchvision_has_it(height: int, width: int, size: int) -> None:
    pixels = np.arange(height * width, dtype=np.float32).reshape(height, width)
    top, left = round((height - size) / 2.0), round((width - size) / 2.0)
    expected = pixels[top : top + size, left : left + size]
    np.testing.assert_array_equal(center_crop(pixels, size), expected)
    np.testing.assert_array_equal(center_crop(np.stack([pixels] * 2)[None], size)[0, 1], expected)
    np.testing.assert_array_equal(np.asarray(center_crop(Image.fromarray(pixels), size)), expected)


def test_half_pixels_are_rounded_to_even() -> None:
    assert center_crop(np.arange(5)[None].repeat(4, 0), 4)[0, 0] == 0  # 0.5 -> 0
    assert center_crop(np.arange(7)[None].repeat(4, 0), 4)[0, 0] == 2  # 1.5 -> 2


def test_three_crops_cover_the_longer_side() -> None:
    wide = np.arange(6 * 11).reshape(1, 6, 11).astype(np.float32)
    crops = three_crops(wide, 4)
    assert crops.shape == (3, 1, 4, 4)
    np.testing.assert_array_equal(crops[:, 0, 0, 0], [1 * 11 + 0, 1 * 11 + 4, 1 * 11 + 7])  # ⌈7 / 2⌉ = 4
    tall = three_crops(wide.swapaxes(1, 2), 4)
    np.testing.assert_array_equal(tall, crops.swapaxes(2, 3))
    square = three_crops(np.arange(49).reshape(7, 7).astype(np.float32), 4)
    np.testing.assert_array_equal(square[:, 0, 0], [14, 16, 17])  # a square is cut like a wide one
    exact = three_crops(np.arange(16).reshape(4, 4).astype(np.float32), 4)
    assert (exact == exact[0]).all()


def test_a_crop_has_to_fit() -> None:
    for crop in (center_crop, three_crops):
        with pytest.raises(ValueError, match="Cannot cut 8 × 8 pixels out of 7 × 9"):
            crop(np.zeros((3, 7, 9), np.float32), 8)


def test_planes_are_channels_from_0_to_1() -> None:
    pixels = RANDOM.integers(0, 256, (5, 6, 3), np.uint8)
    expected = torch.from_numpy(pixels).permute(2, 0, 1).float().div(255).numpy()
    np.testing.assert_array_equal(planes(Image.fromarray(pixels)), expected)
    np.testing.assert_array_equal(planes(Image.fromarray(pixels[..., 0])), expected[:1])
    np.testing.assert_array_equal(video_planes([Image.fromarray(pixels)] * 2), [expected] * 2)
    with pytest.raises(ValueError, match="mode I;16"):
        planes(Image.fromarray(pixels[..., 0].astype(np.uint16)))


def test_clips_pixels_have_its_mean_and_deviation() -> None:
    rgb = RANDOM.random((2, 3, 4, 5), np.float32)
    red, green, blue = (clip_pixels(rgb)[:, channel] for channel in range(3))
    np.testing.assert_allclose(red, (rgb[:, 0] - 0.48145466) / 0.26862954, atol=1e-6)
    np.testing.assert_allclose(green, (rgb[:, 1] - 0.4578275) / 0.26130258, atol=1e-6)
    np.testing.assert_allclose(blue, (rgb[:, 2] - 0.40821073) / 0.27577711, atol=1e-6)
    moved = clip_pixels(np.moveaxis(rgb, 1, -1), axis=-1)
    np.testing.assert_array_equal(moved, np.moveaxis(clip_pixels(rgb), 1, -1))
    assert clip_pixels(rgb).dtype == np.float32
    with pytest.raises(ValueError, match="red, green and blue"):
        clip_pixels(rgb, axis=-1)
