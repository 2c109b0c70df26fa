"""Opens depth maps that are stored as pictures, and tells depths in metres."""

from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32

from feature_cache.datasets.base import DepthMap
from feature_cache.decoding.pictures import open_picture

FARTHEST = 10.0
"""Metres: what 255 means in a picture of 8 bits, and the farthest depth of a map without a unit.

Kinect-like cameras, NYU's among them, see about so far, and the encoders for depth divide by it.
"""
_SIXTEEN_BITS = ("I;16", "I;16B", "I;16L", "I;16N", "I")  # Pillow ≤ 11 opens a PNG of 16 bits as "I"


def open_depth(source: Path | bytes) -> DepthMap:
    """A depth map in metres from a grey picture: 16 bits count millimetres, 8 bits 255ths of `FARTHEST`.

    A pixel of 0 is one for which the camera has no depth, and becomes NaN.

    Raises:
        OSError: there is no such file, it is no picture, or it ends too early.
        ValueError: the picture is neither grey with 16 bits nor grey with 8.
    """
    picture = open_picture(source)
    if picture.mode in _SIXTEEN_BITS:
        metre = 1000.0
    elif picture.mode == "L":
        metre = 255 / FARTHEST
    else:
        raise ValueError(
            f"A depth map is a grey picture of 16 bits (millimetres) or of 8 (255 is {FARTHEST:g} m), but this one has "
            f"Pillow's mode {picture.mode}."
        )
    pixels = np.asarray(picture)
    depth = np.where(pixels == 0, np.nan, pixels / metre)
    return DepthMap(depth.astype(np.float32), unit=1.0)


def metres(depth_map: DepthMap) -> Float32[np.ndarray, "h w"]:
    """Depths in metres, infinite where there is nothing, NaN where there is no measurement.

    Where nobody knows the unit, as with models that come without a size, the farthest depth counts as `FARTHEST`, so
    that the map fills the range that encoders of depth expect.

    >>> metres(DepthMap(np.array([[1.0, 4.0, np.inf]], np.float32)))
    array([[ 2.5, 10. ,  inf]], dtype=float32)
    >>> metres(DepthMap(np.array([[1.0, 4.0, np.inf]], np.float32), unit=0.01))
    array([[0.01, 0.04,  inf]], dtype=float32)

    Raises:
        ValueError: the map is not a matrix, has a depth that is not positive, or shows nothing.
    """
    depth, seen = depth_map.depth, measured(depth_map)
    unit = FARTHEST / float(depth[seen].max()) if depth_map.unit is None else depth_map.unit
    return np.asarray(depth * np.float32(unit), np.float32)


def measured(depth_map: DepthMap) -> Bool[np.ndarray, "h w"]:
    """Where a map has a depth.

    Raises:
        ValueError: the map is not a matrix, has a depth that is not positive, or shows nothing.
    """
    depth = np.asarray(depth_map.depth)
    seen: Bool[np.ndarray, "h w"] = np.isfinite(depth)
    if depth.ndim != 2 or not seen.any() or (depth <= 0).any():
        raise ValueError(
            f"A depth map is a matrix of positive depths, infinite or NaN in places, but not everywhere; got shape "
            f"{depth.shape} with {np.count_nonzero(seen)} finite and {np.count_nonzero(depth <= 0)} entries that are "
            "not positive."
        )
    return seen
