"""Shows a depth map as a picture, for a network that knows only pictures."""

from typing import TYPE_CHECKING

import numpy as np

from feature_cache.datasets.base import DepthMap

if TYPE_CHECKING:
    from PIL.Image import Image

# Near is light and far is dark, but never as light as the background.
_FAR, _NEAR, _BACKGROUND = 38, 217, 255


def depth_picture(depth_map: DepthMap) -> "Image":
    """Inverse depth as shades of grey on white, the map's own range stretched over the shades.

    >>> depth = np.array([[1.0, 2.0, 4.0, np.inf]], np.float32)
    >>> np.asarray(depth_picture(DepthMap(depth))).tolist()
    [[217, 98, 38, 255]]

    Raises:
        ValueError: the map is not a matrix, has a depth that is not positive, or shows nothing.
    """
    from PIL import Image

    depth = np.asarray(depth_map.depth, np.float64)
    seen = np.isfinite(depth)
    if depth.ndim != 2 or not seen.any() or (depth <= 0).any():
        raise ValueError(
            f"A depth map is a matrix of positive depths, infinite or NaN in places, but not everywhere; got shape "
            f"{depth.shape} with {np.count_nonzero(seen)} finite and {np.count_nonzero(depth <= 0)} entries that are "
            "not positive."
        )
    inverse = 1 / depth[seen]
    nearness = (inverse - inverse.min()) / (np.ptp(inverse) or 1.0)
    picture = np.full(depth.shape, _BACKGROUND, np.uint8)
    picture[seen] = np.rint(_FAR + (_NEAR - _FAR) * nearness)
    return Image.fromarray(picture)
