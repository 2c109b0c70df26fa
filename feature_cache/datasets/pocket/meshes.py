"""Triangle meshes out of Wavefront OBJ files. Colours, normals, textures, lines and points are ignored."""

import re

import numpy as np
from jaxtyping import Float64, Int64

Vertices = Float64[np.ndarray, "v 3"]
Triangles = Int64[np.ndarray, "t 3"]

_VERTEX = re.compile(rb"^[ \t]*v[ \t]+(\S+)[ \t]+(\S+)[ \t]+(\S+)", re.MULTILINE)
_FACE = re.compile(rb"^[ \t]*f[ \t]+([^\r\n]+)", re.MULTILINE)
_AFTER_VERTEX_INDEX = re.compile(rb"/\S*")


def read_obj(data: bytes) -> tuple[Vertices, Triangles]:
    """Vertices and triangles of an OBJ file; a polygon becomes a fan around its first corner.

    Raises `ValueError` for numbers that are none, for faces of vertices that are not there, and if there is no face.

    >>> vertices, triangles = read_obj(b"v 0 0 0\\nv 1 0 0\\nv 1 1 0\\nv 0 1 0\\nf 1/1 2/2 3/3 4/4\\n")
    >>> triangles.tolist()
    [[0, 1, 2], [0, 2, 3]]
    """
    data = data.replace(b"\\\r\n", b" ").replace(b"\\\n", b" ")
    vertices = np.array(_VERTEX.findall(data), dtype=bytes).astype(np.float64).reshape(-1, 3)
    faces = [_AFTER_VERTEX_INDEX.sub(b"", face).split() for face in _FACE.findall(data)]
    counts = np.array([len(face) for face in faces], dtype=np.int64)
    corners = np.array([corner for face in faces for corner in face], dtype=bytes).astype(np.int64)
    if (corners < 0).any():
        corners = _absolute(corners, counts, data)
    triangles = corners[_fans(counts)] - 1
    if not len(triangles):
        raise ValueError(f"an OBJ file of {len(data)} bytes has no faces")
    absent = triangles[(triangles < 0) | (triangles >= len(vertices))]
    if len(absent):
        raise ValueError(f"an OBJ file with {len(vertices)} vertices has a face of vertex {absent[0] + 1}")
    return vertices, triangles


def _absolute(
    corners: Int64[np.ndarray, " c"], counts: Int64[np.ndarray, " f"], data: bytes
) -> Int64[np.ndarray, " c"]:
    """Negative indices count back from the last vertex that was defined before their face."""
    vertices = np.array([match.start() for match in _VERTEX.finditer(data)])
    faces = np.array([match.start() for match in _FACE.finditer(data)])
    defined = np.repeat(np.searchsorted(vertices, faces), counts)
    return np.where(corners < 0, defined + corners + 1, corners)


def _fans(counts: Int64[np.ndarray, " f"]) -> Int64[np.ndarray, "t 3"]:
    """Positions of the corners of every triangle, for polygons with `counts` corners stored one after another."""
    triangles = np.maximum(counts - 2, 0)
    start = np.repeat(np.cumsum(counts) - counts, triangles)
    step = np.arange(triangles.sum()) - np.repeat(np.cumsum(triangles) - triangles, triangles)
    return np.stack([start, start + step + 1, start + step + 2], axis=1)
