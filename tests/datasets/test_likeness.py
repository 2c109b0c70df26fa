import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from feature_cache.datasets.pocket.likeness import distances, thumbnail

thumbnails = arrays.arrays(np.uint8, (2, 12, 12, 3), elements=st.integers(0, 200))


@given(thumbnails)
def test_a_picture_and_its_mirror_image_are_the_same(pictures: np.ndarray) -> None:
    assert np.diag(distances(pictures, pictures)).max() < 1e-6
    assert np.diag(distances(pictures, pictures[:, :, ::-1])).max() < 1e-6


@given(thumbnails)
def test_the_distance_is_that_of_the_definition(pictures: np.ndarray) -> None:
    a, b = 1 - pictures / 255
    expected = min(np.linalg.norm(a - b), np.linalg.norm(a - b[:, ::-1])) / min(np.linalg.norm(a), np.linalg.norm(b))
    np.testing.assert_allclose(distances(pictures[:1], pictures[1:]), [[expected]], atol=1e-6)


def test_a_thumbnail_has_the_means_of_the_fields() -> None:
    picture = np.zeros((24, 24, 3), np.uint8)
    picture[:2, :2, 0] = [[0, 100], [0, 100]]
    found = thumbnail(Image.fromarray(picture))
    assert found.shape == (12, 12, 3) and found[0, 0].tolist() == [50, 0, 0] and found[1:].max() == 0


def test_faint_drawings_that_differ_are_not_alike_for_the_white_around_them() -> None:
    pictures = np.full((2, 12, 12, 3), 255, np.uint8)
    pictures[0, 0, 0], pictures[1, 5, 5] = 0, 0
    assert distances(pictures[:1], pictures[1:]).item() > 1
