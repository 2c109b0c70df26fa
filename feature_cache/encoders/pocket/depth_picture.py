"""Shows a depth map as a picture, for a network that knows only pictures."""

from typing import TYPE_CHECKING

import numpy as np

from feature_cache.datasets.base import DepthMap
from feature_cache.decoding.depth import measured

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

    depth, seen = np.asarray(depth_map.depth, np.float64), measured(depth_map)
    inverse = 1 / depth[seen]
    nearness = (inverse - inverse.min()) / (np.ptp(inverse) or 1.0)
    picture = np.full(depth.shape, _BACKGROUND, np.uint8)
    picture[seen] = np.rint(_FAR + (_NEAR - _FAR) * nearness)
    return Image.fromarray(picture)
