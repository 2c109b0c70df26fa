from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from feature_cache.datasets.base import DepthMap
from feature_cache.decoding.depth import metres, open_depth
from tests.raw_files import write_picture


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_sixteen_bits_are_millimetres(tmp_path: Path, suffix: str) -> None:
    path = write_picture(tmp_path / f"a{suffix}", np.array([[0, 1, 1500], [10_000, 40_000, 65_535]], np.uint16))
    depth_map = open_depth(path)
    assert depth_map.unit == 1.0
    assert depth_map.depth.dtype == np.float32
    np.testing.assert_allclose(depth_map.depth, [[np.nan, 0.001, 1.5], [10, 40, 65.535]], rtol=1e-6)


def test_the_order_of_the_two_bytes_does_not_matter(tmp_path: Path) -> None:
    Image.frombytes("I;16B", (2, 1), b"\x03\xe8\x00\x00").save(tmp_path / "a.tiff")
    np.testing.assert_array_equal(open_depth(tmp_path / "a.tiff").depth, [[1.0, np.nan]])


def test_a_picture_that_pillow_opens_with_32_bits_counts_millimetres_too(tmp_path: Path) -> None:
    Image.fromarray(np.array([[70_000, 2500]], np.int32)).save(tmp_path / "a.tiff")
    np.testing.assert_allclose(open_depth(tmp_path / "a.tiff").depth, [[70, 2.5]])


def test_eight_bits_reach_ten_metres(tmp_path: Path) -> None:
    path = write_picture(tmp_path / "a.png", np.array([[0, 1, 51, 255]], np.uint8))
    for source in (path, path.read_bytes()):
        np.testing.assert_allclose(open_depth(source).depth, [[np.nan, 10 / 255, 2, 10]], rtol=1e-6)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P", "1"])
def test_another_picture_is_refused_by_its_mode(tmp_path: Path, mode: str) -> None:
    Image.new("RGB", (4, 4), "red").convert(mode).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=f"mode {mode}\\."):
        open_depth(tmp_path / "a.png")


def test_the_unit_makes_metres_and_without_one_the_farthest_is_at_ten() -> None:
    depth = np.array([[0.5, np.nan], [np.inf, 8.0]], np.float32)
    np.testing.assert_allclose(metres(DepthMap(depth, 1.0)), depth)
    np.testing.assert_allclose(metres(DepthMap(depth, 0.001)), depth / 1000)
    np.testing.assert_allclose(metres(DepthMap(depth)), depth * 1.25)


@pytest.mark.parametrize("depth", [[[0.0, 1.0]], [[-1.0]], [[np.nan]], [[np.inf]], [1.0], [[]]])
def test_an_impossible_map_is_refused(depth: list) -> None:
    for unit in (None, 1.0):
        with pytest.raises(ValueError, match="matrix of positive depths"):
            metres(DepthMap(np.array(depth, np.float32), unit))
