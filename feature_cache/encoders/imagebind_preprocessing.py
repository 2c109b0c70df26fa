"""How ImageBind wants its media: the numbers of its `data.py`, in NumPy, and always the same for the same medium.

Where upstream says nothing: depth and thermal pictures are as in the public reference of the paper that this project is
about, github.com/Xiaohao-Liu/CMCL (perceptors/imagebind.py).

Where this differs from both: of 16 bits a pixel the upper 8 count, instead of all above 255 being white; and pictures
come upright (`open_picture`), while upstream ignores what EXIF says of a camera that was turned.
"""

import math
from fractions import Fraction
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32, Int64

from feature_cache.datasets.base import DepthMap, Video, Waveform
from feature_cache.decoding.depth import FARTHEST, metres
from feature_cache.encoders.front_ends.clip_tokens import ClipTokenizer
from feature_cache.encoders.front_ends.kaldi_fbank import WINDOW, kaldi_fbank
from feature_cache.encoders.front_ends.resampling import resample
from feature_cache.encoders.front_ends.resizing import (
    bicubic_antialiased,
    bilinear,
    center_crop,
    clip_pixels,
    planes,
    short_side,
    three_crops,
    video_shape,
)  # fmt: skip
from feature_cache.encoders.imagebind_code import VOCABULARY

if TYPE_CHECKING:
    from PIL.Image import Image

SIZE = 224
RATE = 16_000
CLIP = 2
"""Seconds of each clip, of sound and of video."""
SOUND_CLIPS, VIDEO_CLIPS = 3, 5
_SOUND_MEAN, _SOUND_STD = -4.268, 9.138


def text_tokens(text: str) -> Int64[np.ndarray, " 77"]:
    """CLIP's tokens, filled up with 0. Raises `WeightsError` if the package with the vocabulary is not installed."""
    return _tokenizer().encode(text)


def picture(image: "Image") -> Float32[np.ndarray, "3 224 224"]:
    """Short side 224, bicubic; its middle; with CLIP's mean 0 and standard deviation 1. Transparency is ignored."""
    return clip_pixels(_square(image, "RGB"))


def thermal_picture(image: "Image") -> Float32[np.ndarray, "1 224 224"]:
    """Grey; short side 224, bicubic; its middle; from -1 to 1."""
    return np.asarray((_square(image, "L") - 0.5) / 0.5, np.float32)


def depth_map(raw: DepthMap) -> Float32[np.ndarray, "1 224 224"]:
    """Depth in tens of metres, 1 for all that is farther and 0 for what was not measured; short side 224, bicubic.

    The reference divides an 8-bit picture by 255, for which this is the same if 255 means 10 m.
    """
    depth = np.nan_to_num(np.minimum(metres(raw) / FARTHEST, 1), nan=0).astype(np.float32)
    return np.ascontiguousarray(center_crop(bicubic_antialiased(depth[None], SIZE), SIZE))


def sound(raw: Waveform, bins: int, frames: int) -> Float32[np.ndarray, "3 1 {bins} {frames}"]:
    """Log-mel spectrograms of three clips of 2 s at 16 kHz: the first, the middle and the last 2 s.

    A shorter sound is all of each clip. Each clip loses its mean, in order and in place as upstream's do: a sound below
    6 s has clips that overlap, and an offset of it leaves a step in the later ones where the one before ends. What a
    spectrogram lacks in `frames` is filled up with 0, before it is scaled with the mean and standard deviation of
    ImageBind's sounds.

    Raises:
        ValueError: the sound has no samples, or some that are not finite, or its rate is not positive.
    """
    if not raw.samples.size or not np.isfinite(raw.samples).all():
        raise ValueError(f"A sound should have finite samples, but this one of {raw.samples.size} has none or others.")
    samples = resample(raw.samples, raw.rate, RATE).copy()
    starts = clip_starts(samples.size / RATE, SOUND_CLIPS)
    clips = [samples[int(start * RATE) : int((start + CLIP) * RATE)] for start in starts]  # views, which may overlap
    mel = np.stack([_mel(clip, bins, frames) for clip in clips])
    return np.asarray((mel[:, None] - _SOUND_MEAN) / _SOUND_STD, np.float32)


def video_clips(video: Video) -> Float32[np.ndarray, "15 3 2 224 224"]:
    """First and last frame of five clips of 2 s, evenly spaced, each three times: left, middle and right of them.

    Short side 224, bilinear; with CLIP's mean 0 and standard deviation 1. Axes: clips and parts, colours, frames,
    rows, columns. Of a video shorter than 2 s all is in each clip; of one frame, first and last are the same.

    Raises:
        ValueError: the video has no frames, or its rate is not positive.
    """
    pairs = frame_pairs(len(video), video.rate)
    wanted = sorted({index for pair in pairs for index in pair})
    pixels = {index: _frame(image) for index, image in zip(wanted, video.pick(wanted), strict=True)}
    clips = np.stack([np.stack([pixels[first], pixels[last]], axis=1) for first, last in pairs])
    parts = three_crops(clips, SIZE).swapaxes(0, 1)
    return np.ascontiguousarray(parts.reshape(3 * VIDEO_CLIPS, 3, 2, SIZE, SIZE))


def clip_starts(duration: float, clips: int) -> list[Fraction]:
    """When clips of 2 s begin, in seconds: the first at 0, the last so that it ends with the medium, in even steps.

    As the version of pytorchvideo that ImageBind pins (28fe037). The released ones, up to 0.1.5, have smaller steps
    and leave the end out.

    >>> [float(start) for start in clip_starts(10.0, 5)], [float(start) for start in clip_starts(1.5, 3)]
    ([0.0, 2.0, 4.0, 6.0, 8.0], [0.0, 0.0, 0.0])
    """
    last = Fraction(max(duration - CLIP, 0))
    return [last * index / (clips - 1) for index in range(clips)]


def frame_pairs(frames: int, rate: float) -> list[tuple[int, int]]:
    """First and last frame of each of the five clips of a video; a frame belongs to a clip if it begins in it.

    >>> frame_pairs(300, 30.0)
    [(0, 59), (60, 119), (120, 179), (180, 239), (240, 299)]
    >>> frame_pairs(1, 25.0)
    [(0, 0), (0, 0), (0, 0), (0, 0), (0, 0)]
    """
    if frames < 1 or not 0 < rate < math.inf:
        raise ValueError(f"A video should have at least one frame, but this one has {frames}, {rate:g} a second.")
    pairs = []
    for start in clip_starts(frames / rate, VIDEO_CLIPS):
        first = min(math.ceil(rate * start), frames - 1)
        pairs.append((first, max(first, min(math.ceil(rate * (start + CLIP)), frames) - 1)))
    return pairs


def _square(image: "Image", mode: str) -> Float32[np.ndarray, "c 224 224"]:
    return planes(center_crop(short_side(_in_mode(image, mode), SIZE), SIZE))


def _in_mode(image: "Image", mode: str) -> "Image":
    """The picture as "RGB" or "L"; of one with 16 bits a pixel, the upper 8."""
    from PIL import Image

    if image.mode.startswith("I"):
        values = np.clip(np.asarray(image).astype(np.int64), 0, 65_535) >> 8
        image = Image.fromarray(values.astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # Pillow warns otherwise
    return image.convert(mode)


def _frame(image: "Image") -> Float32[np.ndarray, "3 h w"]:
    height, width = video_shape(image.height, image.width, SIZE)
    return clip_pixels(bilinear(planes(_in_mode(image, "RGB")), height, width))


def _mel(clip: Float32[np.ndarray, " t"], bins: int, frames: int) -> Float32[np.ndarray, "{bins} {frames}"]:
    """Also takes the mean out of `clip` itself."""
    clip -= clip.mean()
    shortest = RATE * WINDOW // 1000
    mel = kaldi_fbank(np.pad(clip, (0, max(shortest - clip.size, 0))), RATE, bins)[:frames]
    return np.pad(mel, ((0, frames - len(mel)), (0, 0))).T


@cache
def _tokenizer() -> ClipTokenizer:
    return ClipTokenizer.from_bpe(VOCABULARY.locate())
