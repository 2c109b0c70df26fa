"""How much two pictures look alike: the distance of their thumbnails, relative to how much is drawn."""

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, UInt8

if TYPE_CHECKING:
    from PIL.Image import Image

SIDE = 12
NEAR_DUPLICATE = 0.2
"""Pictures nearer than this are taken for one: a plug of type A and one of type B, two cats that grin."""


def thumbnail(picture: "Image") -> UInt8[np.ndarray, "12 12 3"]:
    """Means over the fields of a grid."""
    from PIL import Image

    return np.asarray(picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX))


def distances(
    first: UInt8[np.ndarray, "n 12 12 3"], second: UInt8[np.ndarray, "m 12 12 3"]
) -> Float[np.ndarray, "n m"]:
    """Distance of every pair, or of one picture to the mirror image of the other if that is less.

    0 is the same; 1 about what two unlike pictures of equal strokes have. What counts is the difference to white, and
    the distance is relative to the fainter of both.

    >>> half = np.full((1, 12, 12, 3), 255, np.uint8)
    >>> half[:, :, :6] = 0
    >>> distances(half, half[:, :, ::-1]).item(), round(distances(half, 0 * half).item(), 3)
    (0.0, 1.0)
    """
    a, b = (1 - pictures.astype(np.float64) / 255 for pictures in (first, second))
    mirrored = b[:, :, ::-1]
    nearest = np.minimum(_euclidean(a, b), _euclidean(a, mirrored))
    strokes = np.minimum(np.linalg.norm(_flat(a), axis=1)[:, None], np.linalg.norm(_flat(b), axis=1))
    return np.asarray(nearest / np.maximum(strokes, 1e-9))


def _euclidean(a: Float[np.ndarray, "n 12 12 3"], b: Float[np.ndarray, "m 12 12 3"]) -> Float[np.ndarray, "n m"]:
    x, y = _flat(a), _flat(b)
    squares = (x**2).sum(axis=1)[:, None] + (y**2).sum(axis=1) - 2 * x @ y.T
    return np.asarray(np.sqrt(np.maximum(squares, 0)))


def _flat(pictures: Float[np.ndarray, "n 12 12 3"]) -> Float[np.ndarray, "n d"]:
    return pictures.reshape(len(pictures), -1)
