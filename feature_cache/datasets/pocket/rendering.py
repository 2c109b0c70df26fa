"""Depth maps of triangle meshes: a pinhole camera and a z-buffer, exact at pixel centres, no randomness."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, Int64

from feature_cache.datasets.pocket.meshes import Triangles, Vertices

AZIMUTH, ELEVATION = np.radians(25.0), np.radians(20.0)
"""From the front right and from above, as furniture catalogues are photographed."""
DISTANCE = 4.0
"""Of the camera from the object's centre, in radii of its bounding sphere."""
MARGIN = 0.04
"""Of the picture's side, left free around the object."""
_CHUNK = 1 << 18
_EPSILON = 1e-9


@dataclass(frozen=True)
class Camera:
    """A pinhole camera.

    Attributes:
        axes: rows are the directions right, up and backward, in the scene's coordinates.
        position: in the scene's coordinates.
        focal: distance of the image plane, in pixels.
        centre: column and row that the optical axis meets; pixel (0, 0) spans 0 to 1 in both.
        size: columns and rows.
    """

    axes: Float64[np.ndarray, "3 3"]
    position: Float64[np.ndarray, "3"]
    focal: float
    centre: tuple[float, float]
    size: tuple[int, int]

    def project(self, points: Float64[np.ndarray, "n 3"]) -> Float64[np.ndarray, "n 3"]:
        """Column, row and depth (distance from the camera's plane) of every point."""
        right, up, backward = ((points - self.position) @ self.axes.T).T
        depth = -backward
        column = self.centre[0] + self.focal * right / depth
        row = self.centre[1] - self.focal * up / depth
        return np.stack([column, row, depth], axis=1)


def catalogue_view(vertices: Vertices, side: int) -> Camera:
    """A camera in front of an object (y is up, z is front), turned and zoomed so that it fills `side`² pixels."""
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    radius = max(float(np.linalg.norm(high - low)) / 2, 1e-30)
    backward = np.array([np.sin(AZIMUTH) * np.cos(ELEVATION), np.sin(ELEVATION), np.cos(AZIMUTH) * np.cos(ELEVATION)])
    right = np.array([np.cos(AZIMUTH), 0.0, -np.sin(AZIMUTH)])
    axes = np.stack([right, np.cross(backward, right), backward])
    position = (low + high) / 2 + DISTANCE * radius * backward
    image = Camera(axes, position, 1.0, (0.0, 0.0), (side, side)).project(vertices)[:, :2]
    extent = np.ptp(image, axis=0).max()
    focal = side * (1 - 2 * MARGIN) / extent
    middle = (image.min(axis=0) + image.max(axis=0)) / 2
    column, row = side / 2 - focal * middle
    return Camera(axes, position, float(focal), (float(column), float(row)), (side, side))


def depth_map(vertices: Vertices, triangles: Triangles, camera: Camera) -> Float32[np.ndarray, "h w"]:
    """The depth of the nearest triangle at every pixel's centre, infinite where there is none.

    All vertices must lie in front of the camera. Inverse depth is linear on the image of a triangle, so that its values
    at the corners determine it everywhere. Triangles are drawn in groups whose bounding boxes have like sizes.

    Raises `ValueError` if a vertex is behind the camera.
    """
    points = camera.project(vertices)
    if len(points) and points[:, 2].min() <= 0:
        raise ValueError(f"a vertex is behind the camera, at depth {points[:, 2].min():.3g}")
    columns, rows = camera.size
    corners = points[triangles]
    first = np.maximum(np.ceil(corners[..., :2].min(axis=1) - 0.5), 0).astype(np.int64)
    last = np.minimum(np.floor(corners[..., :2].max(axis=1) - 0.5), (columns - 1, rows - 1)).astype(np.int64)
    covers = (last >= first).all(axis=1)
    corners, first, last = corners[covers], first[covers], last[covers]
    nearness = np.zeros(rows * columns)
    boxes = 2 ** np.ceil(np.log2(last - first + 1)).astype(np.int64)
    for width, height in np.unique(boxes, axis=0):
        group = np.flatnonzero((boxes == (width, height)).all(axis=1))
        step = max(1, _CHUNK // int(width * height))
        for start in range(0, len(group), step):
            chunk = group[start : start + step]
            _draw(nearness.reshape(rows, columns), corners[chunk], first[chunk], int(width), int(height))
    with np.errstate(divide="ignore"):
        return (1 / nearness).astype(np.float32).reshape(rows, columns)


def _draw(
    nearness: Float64[np.ndarray, "h w"],
    corners: Float64[np.ndarray, "t 3 3"],
    first: Int64[np.ndarray, "t 2"],
    width: int,
    height: int,
) -> None:
    """Raises `nearness` (inverse depth) to that of triangles whose boxes, so wide and high, start at `first`."""
    column = first[:, 0, None] + np.arange(width)
    row = first[:, 1, None] + np.arange(height)
    x, y = (column + 0.5)[:, None, :], (row + 0.5)[:, :, None]
    (ax, ay), (bx, by), (cx, cy) = (corners[:, k, :2].T[:, :, None, None] for k in range(3))
    with np.errstate(divide="ignore", invalid="ignore"):  # a triangle seen edge-on gets NaN and covers nothing
        scale = 1 / ((bx - ax) * (cy - ay) - (by - ay) * (cx - ax))
        b = (x - ax) * ((cy - ay) * scale) - (y - ay) * ((cx - ax) * scale)
        c = (y - ay) * ((bx - ax) * scale) - (x - ax) * ((by - ay) * scale)
        inside = (b >= -_EPSILON) & (c >= -_EPSILON) & (b + c <= 1 + _EPSILON)
    inside &= (column < nearness.shape[1])[:, None, :] & (row < nearness.shape[0])[:, :, None]
    triangle, i, j = np.nonzero(inside)
    inverse = 1 / corners[triangle, :, 2]
    value = inverse[:, 0] + b[inside] * (inverse[:, 1] - inverse[:, 0]) + c[inside] * (inverse[:, 2] - inverse[:, 0])
    np.maximum.at(nearness, (row[triangle, i], column[triangle, j]), value)
