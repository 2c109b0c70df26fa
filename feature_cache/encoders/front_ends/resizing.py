"""Sizes and crops of pictures, as the encoders' own preprocessing has them, without torch.

Each function says whose geometry it follows: pixels that are off by one change an embedding.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Float32

if TYPE_CHECKING:
    from PIL.Image import Image

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
"""Of the red, green and blue of the pictures that CLIP was trained with (Radford et al. 2021, arXiv:2103.00020)."""


def picture_shape(height: int, width: int, size: int) -> tuple[int, int]:
    """Height and width with the shorter of them `size`, as torchvision's `Resize(size)` rounds.

    >>> picture_shape(480, 640, 224)
    (224, 298)
    """
    if min(height, width) < 1:
        raise ValueError(f"A picture of {height} × {width} pixels cannot be resized.")
    return (size, int(size * width / height)) if height <= width else (int(size * height / width), size)


def video_shape(height: int, width: int, size: int) -> tuple[int, int]:
    """Height and width with the shorter of them `size`, as pytorchvideo's `ShortSideScale(size)` rounds.

    It divides first, which may cost a pixel:

    >>> picture_shape(112, 122, 224), video_shape(112, 122, 224)
    ((224, 244), (224, 243))
    """
    if min(height, width) < 1:
        raise ValueError(f"A video of {height} × {width} pixels cannot be resized.")
    if width < height:
        return math.floor(height / width * size), size
    return size, math.floor(width / height * size)


def short_side(image: "Image", size: int, resample: int | None = None) -> "Image":
    """Resizes a picture until its shorter side is `size`, bicubic by default; torchvision's `Resize(size)`."""
    from PIL.Image import Resampling

    height, width = picture_shape(image.height, image.width, size)
    if (width, height) == image.size:
        return image
    return image.resize((width, height), Resampling.BICUBIC if resample is None else Resampling(resample))


def center_crop(pixels: Any, size: int) -> Any:
    """The middle [... size size] of an array [... h w], or of a Pillow image; torchvision's `CenterCrop(size)`.

    Raises:
        ValueError: a side is shorter than `size`.
    """
    is_array = isinstance(pixels, np.ndarray)
    height, width = pixels.shape[-2:] if is_array else (pixels.height, pixels.width)
    _check_crop(height, width, size)
    top, left = round((height - size) / 2), round((width - size) / 2)
    if is_array:
        return pixels[..., top : top + size, left : left + size]
    return pixels.crop((left, top, left + size, top + size))


def three_crops(frames: Float32[np.ndarray, "... h w"], size: int) -> Float32[np.ndarray, "3 ... size size"]:
    """Left, middle and right part of a wide video, or top, middle and bottom of a tall one; ImageBind's `SpatialCrop`.

    Raises:
        ValueError: a side is shorter than `size`.
    """
    height, width = frames.shape[-2:]
    _check_crop(height, width, size)
    top, left = math.ceil((height - size) / 2), math.ceil((width - size) / 2)
    if height > width:
        corners = [(0, left), (top, left), (height - size, left)]
    else:
        corners = [(top, 0), (top, left), (top, width - size)]
    return np.stack([frames[..., y : y + size, x : x + size] for y, x in corners])


def bilinear(
    frames: Float32[np.ndarray, "... h w"], height: int, width: int
) -> Float32[np.ndarray, "... {height} {width}"]:
    """Bilinear interpolation between pixel centres, without smoothing before.

    torch's `interpolate(mode="bilinear", align_corners=False, antialias=False)`.
    """
    return _interpolated(_interpolated(frames, width, -1), height, -2)


def bicubic_antialiased(channels: Float32[np.ndarray, "c h w"], size: int) -> Float32[np.ndarray, "c h2 w2"]:
    """Bicubic interpolation with smoothing until the shorter side is `size`; values may overshoot.

    torchvision's `Resize(size, BICUBIC, antialias=True)` of a tensor.
    """
    from PIL import Image

    planes = (short_side(Image.fromarray(np.asarray(channel, np.float32)), size) for channel in channels)
    return np.stack([np.asarray(plane) for plane in planes])


def planes(picture: "Image") -> Float32[np.ndarray, "c h w"]:
    """The channels of a picture of 8 bits, from 0 to 1; torchvision's `ToTensor()`."""
    pixels = np.asarray(picture)
    if pixels.dtype != np.uint8:
        raise ValueError(f"Expected a picture of 8 bits a channel, but got Pillow's mode {picture.mode}.")
    return np.ascontiguousarray(np.atleast_3d(pixels).transpose(2, 0, 1), np.float32) / np.float32(255)


def video_planes(frames: "Sequence[Image]") -> Float32[np.ndarray, "t 3 h w"]:
    """The channels of RGB frames, from 0 to 1."""
    return np.stack([planes(frame) for frame in frames])


def clip_pixels(rgb: Float32[np.ndarray, "..."], axis: int = -3) -> Float32[np.ndarray, "..."]:
    """Pixels from 0 to 1 -> with CLIP's mean 0 and standard deviation 1; `axis` is that of red, green and blue."""
    if rgb.shape[axis] != 3:
        raise ValueError(f"Expected red, green and blue in axis {axis}, but got shape {rgb.shape}.")
    shape = [1] * rgb.ndim
    shape[axis] = 3
    mean, std = (np.array(values, np.float32).reshape(shape) for values in (CLIP_MEAN, CLIP_STD))
    return np.asarray((rgb - mean) / std, np.float32)


def _check_crop(height: int, width: int, size: int) -> None:
    if min(height, width) < size:
        raise ValueError(f"Cannot cut {size} × {size} pixels out of {height} × {width}.")


def _interpolated(frames: Float[np.ndarray, "..."], length: int, axis: int) -> Float32[np.ndarray, "..."]:
    """Linear interpolation along one axis; a pixel beyond the border is the one at the border."""
    before = frames.shape[axis]
    if before == length:
        return np.asarray(frames, np.float32)
    at = np.maximum((np.arange(length) + 0.5) * (before / length) - 0.5, 0)
    low = at.astype(np.int64)
    weight = (at - low).astype(np.float32)
    if axis == -2:
        weight = weight[:, None]
    first = np.take(frames, low, axis).astype(np.float32)
    second = np.take(frames, np.minimum(low + 1, before - 1), axis).astype(np.float32)
    return np.asarray(first + (second - first) * weight)
