"""Media -> what LanguageBind's towers take, without torch. Nothing is drawn at random.

Geometry and constants are those of upstream's processors (languagebind 0.1.0, `processing_*.py`), which draw two things
at random; what stands for them here:

    video  mirrored left to right with probability ½   ->  never mirrored
    audio  three chunks, each beginning anywhere in
           its third of all possible beginnings        ->  in the middle of that third

Pictures and depth maps are smoothed when they become smaller, as torchvision does since 0.17, and so in the public
reference (github.com/Xiaohao-Liu/CMCL, with torch 2.5 or later). With the 0.14 that LanguageBind's authors list it did
not smooth tensors.
"""

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32

from feature_cache.datasets.base import DepthMap, Video, Waveform
from feature_cache.decoding.depth import metres
from feature_cache.encoders.front_ends.kaldi_fbank import kaldi_fbank
from feature_cache.encoders.front_ends.resampling import resample
from feature_cache.encoders.front_ends.resizing import (
    bicubic_antialiased,
    bilinear,
    center_crop,
    clip_pixels,
    planes,
    video_shape,
)
from feature_cache.encoders.languagebind_snapshot import SIZE, AudioShape

if TYPE_CHECKING:
    from PIL.Image import Image

_NEAREST = 0.01  # metres
_CHUNKS = 3


def picture_pixels(picture: "Image") -> Float32[np.ndarray, "3 224 224"]:
    """A picture, or a thermal one: as RGB from 0 to 1, bicubic until the shorter side is 224, its middle, normalised.

    Upstream takes nothing but RGB. Here grey is three equal channels, and what is transparent lies on white. Pictures
    come upright (`open_picture`), while upstream ignores what EXIF says of a camera that was turned.

    Raises:
        ValueError: the picture has more than 8 bits a channel.
    """
    return clip_pixels(center_crop(bicubic_antialiased(planes(_rgb(picture)), SIZE), SIZE))


def depth_pixels(depth_map: DepthMap, farthest: float) -> Float32[np.ndarray, "3 224 224"]:
    """A depth map as a grey picture, in which `farthest` metres and beyond are 1; then as `picture_pixels`.

    Where nothing was measured counts as nearest: upstream reads PNG files in which 0 stands for it.

    Raises:
        ValueError: the map is not a matrix of positive depths.
    """
    depth = metres(depth_map)
    clipped = np.clip(np.nan_to_num(depth, nan=0, posinf=farthest), _NEAREST, farthest) / np.float32(farthest)
    grey = center_crop(bicubic_antialiased(clipped[None], SIZE), SIZE)
    return clip_pixels(np.repeat(grey, 3, 0))


def video_pixels(video: Video, frames: int) -> Float32[np.ndarray, "3 {frames} 224 224"]:
    """Evenly spaced frames, the first and the last among them, bilinear until the shorter side is 224, their middles.

    Raises:
        ValueError: the video has no frames.
    """
    if not len(video):
        raise ValueError("A video should have at least one frame, but has none.")
    picked = video.pick([int(index) for index in np.linspace(0, len(video) - 1, frames, dtype=int)])
    return clip_pixels(np.stack([_frame(picture) for picture in picked], axis=1), axis=0)


def audio_spectra(waveform: Waveform, shape: AudioShape) -> Float32[np.ndarray, "3 bins frames"]:
    """Three chunks of a sound's log-mel spectrum, from its beginning, middle and end; they may overlap.

    A sound that is shorter than a chunk is repeated until it fills it, and the three are the same.

    Raises:
        ValueError: the sound is shorter than 25 ms.
    """
    samples = resample(waveform.samples, waveform.rate, shape.rate)
    mel = kaldi_fbank(samples - samples.mean(dtype=np.float64).astype(np.float32), shape.rate, shape.bins)
    if len(mel) < shape.frames:
        mel = np.tile(mel, (shape.frames // len(mel) + 1, 1))[: shape.frames]
    chunks = np.stack([mel[start : start + shape.frames].T for start in chunk_starts(len(mel), shape.frames)])
    return np.asarray((chunks - shape.mean) / (2 * shape.std), np.float32)


def chunk_starts(frames: int, chunk: int) -> list[int]:
    """Where the three chunks of a spectrum of so many frames begin: the middles of the thirds of all beginnings.

    >>> chunk_starts(1036, 1036), chunk_starts(1037, 1036), chunk_starts(1998, 1036)
    ([0, 0, 0], [0, 1, 0], [160, 481, 802])
    """
    thirds = np.array_split(np.arange(frames - chunk + 1), _CHUNKS)
    return [int(third[len(third) // 2]) if third.size else 0 for third in thirds]


def _frame(picture: "Image") -> Float32[np.ndarray, "3 224 224"]:
    """Normalising comes after resizing, which is the same but for rounding and far less to compute."""
    channels = planes(_rgb(picture))
    height, width = video_shape(picture.height, picture.width, SIZE)
    return np.asarray(center_crop(bilinear(channels, height, width), SIZE))


def _rgb(picture: "Image") -> "Image":
    if picture.mode in ("F", "I") or picture.mode.startswith("I;"):
        raise ValueError(f"Expected a picture of 8 bits a channel, but got Pillow's mode {picture.mode}.")
    if picture.mode == "RGB":
        return picture
    from feature_cache.datasets.pocket.pictures import on_white

    return on_white(picture)
