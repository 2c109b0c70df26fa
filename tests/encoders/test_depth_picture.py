import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_cache.datasets.base import DepthMap
from feature_cache.encoders.pocket.depth_picture import depth_picture


def shades(depth: object) -> np.ndarray:
    return np.asarray(depth_picture(DepthMap(np.array(depth, np.float32))))


@given(st.lists(st.floats(0.125, 100, width=32), min_size=2, max_size=20), st.floats(0.1, 10))
@settings(deadline=None)
def test_nearer_is_never_darker_and_the_unit_does_not_matter(depths: list[float], unit: float) -> None:
    row = shades([depths])[0].astype(int)
    assert (np.diff(row[np.argsort(depths)]) <= 0).all()
    if max(depths) > 1.01 * min(depths):  # else the shades are those of rounding errors
        assert np.abs(shades([[depth * unit for depth in depths]])[0].astype(int) - row).max() <= 1


def test_the_background_is_white_and_nothing_else_is() -> None:
    picture = shades([[np.inf, 1.0], [3.0, np.nan]])
    assert (picture == 255).tolist() == [[True, False], [False, True]]


def test_a_flat_surface_has_one_shade() -> None:
    assert len(np.unique(shades(np.full((4, 6), 2.5)))) == 1


@pytest.mark.parametrize(
    "depth", [[[np.inf, np.inf]], [[1.0, 0.0]], [[1.0, -2.0]], [[np.nan, np.nan]], [1.0, 2.0], [[]]]
)
def test_an_impossible_depth_map_is_refused(depth: list[object]) -> None:
    with pytest.raises(ValueError, match="A depth map is a matrix of positive depths"):
        shades(depth)
