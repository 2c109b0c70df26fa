import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from feature_cache.datasets.pocket.rendering import MARGIN, Camera, catalogue_view, depth_map

SQUARE = np.array([[-1.0, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]])
FACES = np.array([[0, 1, 2], [0, 2, 3]])


def camera_at(z: float, size: tuple[int, int] = (100, 100), focal: float = 50.0) -> Camera:
    """On the z axis, looking at the origin."""
    return Camera(np.eye(3), np.array([0.0, 0, z]), focal, (size[0] / 2, size[1] / 2), size)


def traced(vertices: np.ndarray, triangles: np.ndarray, camera: Camera, tolerance: float) -> np.ndarray:
    """Depth by one ray per pixel and Möller–Trumbore intersection; triangles grow by `tolerance` at their edges."""
    column, row = np.meshgrid(*(np.arange(count) + 0.5 for count in camera.size))
    x, y = (column - camera.centre[0]) / camera.focal, (camera.centre[1] - row) / camera.focal
    rays = np.stack([x, y, -np.ones_like(x)], axis=-1) @ camera.axes  # each one unit of depth long
    nearest = np.full(x.shape, np.inf)
    for a, b, c in vertices[triangles]:
        across, along = np.cross(rays, c - a), np.cross(camera.position - a, b - a)
        determinant = across @ (b - a)
        determinant[np.abs(determinant) < 1e-12] = np.nan
        u, v, depth = (
            dividend / determinant for dividend in (across @ (camera.position - a), rays @ along, along @ (c - a))
        )
        hit = np.minimum(np.minimum(u, v), 1 - u - v) >= -tolerance
        nearest = np.where(hit, np.minimum(nearest, depth), nearest)
    return nearest


def test_a_square_at_distance_five_covers_the_pixels_it_should_with_depth_five() -> None:
    # half a side of 1 at depth 5 and focal length 50 is 10 pixels
    expected = np.full((100, 100), np.inf)
    expected[40:60, 40:60] = 5
    np.testing.assert_allclose(depth_map(SQUARE, FACES, camera_at(5)), expected, rtol=1e-6)


def test_what_is_near_hides_what_is_far_in_either_order() -> None:
    near = SQUARE / 4 + [0, 0, 3]
    # at depth 2 a quarter of a unit is 6.25 pixels: centres 43.5 … 55.5 … of columns 44 to 55
    expected = np.full((100, 100), np.inf)
    expected[40:60, 40:60] = 5
    expected[44:56, 44:56] = 2
    for first, second in ((SQUARE, near), (near, SQUARE)):
        vertices, faces = np.concatenate([first, second]), np.concatenate([FACES, FACES + 4])
        np.testing.assert_allclose(depth_map(vertices, faces, camera_at(5)), expected, rtol=1e-6)


def test_a_slanted_plane_has_the_depth_that_its_equation_gives() -> None:
    # the plane z = x, seen from z = 5: a ray with slope s meets it at depth d where 5 - d = s d
    vertices = np.array([[-4.0, -4, -4], [4, -4, 4], [4, 4, 4], [-4, 4, -4]])
    depth = depth_map(vertices, FACES, camera_at(5))
    slope = (np.arange(100) + 0.5 - 50) / 50
    left_end = -4 / 9  # the corner at x = -4 is at depth 9
    expected = np.where(slope > left_end, 5 / (1 + slope), np.inf)
    np.testing.assert_allclose(depth[50], expected, rtol=1e-6)


def test_a_surface_larger_than_the_picture_fills_it() -> None:
    np.testing.assert_allclose(depth_map(100 * SQUARE, FACES, camera_at(3, (33, 17))), 3, rtol=1e-6)


def test_up_is_up_and_right_is_right() -> None:
    depth = depth_map(SQUARE / 2 + [1, 1, 0], FACES, camera_at(5))
    rows, columns = np.nonzero(np.isfinite(depth))
    assert rows.max() < 50 <= columns.min()


@settings(max_examples=200, deadline=None)
@given(hnp.arrays(np.float64, (4, 3, 3), elements=st.integers(-8, 8).map(lambda i: i / 4)), st.integers(0, 2**32 - 1))
def test_depth_agrees_with_ray_tracing(corners: np.ndarray, seed: int) -> None:
    axes, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    camera = Camera(axes, 6 * axes[2], 20.0, (7.3, 5.1), (14, 11))
    vertices, triangles = corners.reshape(-1, 3), np.arange(12).reshape(4, 3)
    depth = depth_map(vertices, triangles, camera)
    # a centre on an edge belongs to the triangle or not as rounding will have it: both are right
    inner, outer = (traced(vertices, triangles, camera, tolerance) for tolerance in (-1e-5, 1e-5))
    slack = 1e-4
    assert (depth <= inner * (1 + slack)).all() and (depth >= outer * (1 - slack)).all()


@settings(deadline=None)
@given(st.permutations(range(6)), st.permutations(range(3)))
def test_the_order_of_triangles_and_corners_does_not_matter(order: list[int], corners: list[int]) -> None:
    rng = np.random.default_rng(0)
    vertices, triangles = rng.normal(size=(18, 3)), np.arange(18).reshape(6, 3)
    again = depth_map(vertices, triangles[np.ix_(order, corners)], camera_at(9, (40, 30)))
    np.testing.assert_allclose(again, depth_map(vertices, triangles, camera_at(9, (40, 30))), rtol=1e-5)


def test_a_mesh_of_many_triangles_has_no_cracks() -> None:
    grid = np.linspace(-1, 1, 38)
    x, y = np.meshgrid(grid, grid)
    vertices = np.stack([x, y, np.zeros_like(x)], axis=-1).reshape(-1, 3)
    at = (np.arange(37)[:, None] * 38 + np.arange(37)).ravel()
    triangles = np.concatenate([np.stack([at, at + 1, at + 39], 1), np.stack([at, at + 39, at + 38], 1)])
    depth = depth_map(vertices, triangles, camera_at(5))
    assert np.isfinite(depth[40:60, 40:60]).all() and np.isfinite(depth).sum() == 400


def test_triangles_without_area_and_seen_edge_on_are_invisible() -> None:
    vertices = np.array([[0.0, 0, 0], [0, 0, 1], [0, 0, 2], [1, 1, 1], [1, 1, 1], [2, 2, 1]])
    assert np.isinf(depth_map(vertices, np.array([[0, 1, 2], [3, 4, 5]]), camera_at(5))).all()


def test_a_vertex_behind_the_camera_is_an_error() -> None:
    with pytest.raises(ValueError, match="behind the camera"):
        depth_map(SQUARE + np.array([0, 0, 7]), FACES, camera_at(5))


@pytest.mark.parametrize("size", [(1.0, 1.0, 1.0), (0.1, 5.0, 0.1), (4.0, 0.0, 2.0), (1e-3, 1e-3, 1e-3)])
def test_the_catalogues_view_fills_the_picture(size: tuple[float, float, float]) -> None:
    box = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)]) * size + [3.0, -2, 8]
    camera = catalogue_view(box, 224)
    image = camera.project(box)[:, :2]
    low, high = image.min(axis=0), image.max(axis=0)
    assert (high - low).max() == pytest.approx(224 * (1 - 2 * MARGIN))
    np.testing.assert_allclose((low + high) / 2, 112)


def test_the_catalogues_view_shows_the_front_right_and_the_top() -> None:
    sides = {"front": [0.0, 0, 1], "right": [1.0, 0, 0], "top": [0.0, 1, 0]}
    box = np.array([[x, y, z] for x in (-1.0, 1) for y in (-1.0, 1) for z in (-1.0, 1)])
    camera = catalogue_view(box, 100)
    towards = camera.position / np.linalg.norm(camera.position)
    facing = {name: towards @ normal for name, normal in sides.items()}
    assert facing["front"] > facing["right"] > 0 and facing["top"] > 0
    np.testing.assert_allclose(camera.axes @ camera.axes.T, np.eye(3), atol=1e-12)
