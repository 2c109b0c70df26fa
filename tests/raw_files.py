"""Writes small media files, as cameras, microphones and other people's programs do."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import soundfile
from PIL import Image

CODECS = {".mp4": "libx264", ".avi": "mpeg4", ".webm": "libvpx", ".mkv": "libx264", ".mov": "libx264"}
SOUND_CODECS = {".mp4": "aac", ".m4a": "aac", ".avi": "libmp3lame", ".webm": "libopus", ".mkv": "aac", ".mov": "aac"}


def moving_square(count: int, height: int = 48, width: int = 64, seed: int = 0) -> np.ndarray:
    """Frames [count height width 3] in uint8: a bright square that moves over a coloured ground."""
    generator = np.random.default_rng(seed)
    frames = np.empty((count, height, width, 3), np.uint8)
    frames[:] = generator.integers(0, 128, 3)
    colour, side = generator.integers(128, 256, 3), max(min(height, width) // 4, 1)
    for number in range(count):
        x, y = (2 * number) % max(width - side, 1), number % max(height - side, 1)
        frames[number, y : y + side, x : x + side] = colour
    return frames


def tone(frequency: float, rate: int, seconds: float, channels: int = 1) -> np.ndarray:
    """Samples [t] or [t channels] in float32: a sine of half the full scale; channel k is k + 1 times as high."""
    time = np.arange(round(seconds * rate)) / rate
    samples = 0.5 * np.sin(2 * np.pi * frequency * np.outer(time, np.arange(1, channels + 1)))
    return (samples[:, 0] if channels == 1 else samples).astype(np.float32)


def write_video(
    path: Path,
    frames: np.ndarray,
    rate: int | Fraction = 25,
    audio: tuple[np.ndarray, int] | None = None,
    codec: str | None = None,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
) -> Path:
    """Frames [t h w 3] in uint8, h and w even, as mp4 (h264), avi (mpeg4), webm (vp8) or mkv (h264).

    Args:
        audio: samples [t] or [t channels] in float32 and their rate: a sound track.
        codec: another one than the suffix's in `CODECS`.
        options: the codec's, such as {"bf": "2"} for frames that depend on later ones.
        container_options: the container's, such as {"movflags": "faststart"}.
    """
    with av.open(str(path), "w", container_options=container_options or {}) as container:
        video: Any = container.add_stream(codec or CODECS[path.suffix], rate=rate, options=options or {})
        video.height, video.width, video.pix_fmt = frames.shape[1], frames.shape[2], "yuv420p"
        video.codec_context.thread_count = 1
        sound = None if audio is None else _sound_track(container, path.suffix, audio)
        for frame in frames:
            container.mux(video.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(video.encode())
        if audio is not None and sound is not None:
            _encode_sound(container, sound, audio)
    return path


def write_audio(path: Path, samples: np.ndarray, rate: int, subtype: str | None = None) -> Path:
    """Samples [t] or [t channels] in float32 as wav, flac, ogg, mp3 (libsndfile), m4a, webm or mkv (FFmpeg)."""
    if path.suffix not in SOUND_CODECS:
        soundfile.write(path, samples, rate, subtype=subtype)
        return path
    with av.open(str(path), "w") as container:
        _encode_sound(container, _sound_track(container, path.suffix, (samples, rate)), (samples, rate))
    return path


def write_picture(path: Path, pixels: np.ndarray, **options: Any) -> Path:
    """Pixels [h w], [h w 3] or [h w 4] in uint8, or [h w] in uint16, in the suffix's format: png, jpg, webp, tiff."""
    Image.fromarray(pixels).save(path, **options)
    return path


def truncate(path: Path, share: float) -> Path:
    """Cuts a file off after so much of it."""
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    return path


def decode_all(path: Path) -> list[np.ndarray]:
    """Every frame of a video [h w 3], by FFmpeg's plain decoder."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def stack(pictures: Sequence[Image.Image]) -> np.ndarray:
    return np.stack([np.asarray(picture) for picture in pictures])


def _sound_track(container: Any, suffix: str, audio: tuple[np.ndarray, int]) -> Any:
    return container.add_stream(SOUND_CODECS[suffix], rate=audio[1], layout=_layout(audio[0]))


def _encode_sound(container: Any, stream: Any, audio: tuple[np.ndarray, int]) -> None:
    samples, rate = audio
    planes = np.ascontiguousarray(np.atleast_2d(samples.T), np.float32)
    frame = av.AudioFrame.from_ndarray(planes, format="fltp", layout=_layout(samples))
    frame.sample_rate, frame.pts = rate, 0
    container.mux(stream.encode(frame))
    container.mux(stream.encode())


def _layout(samples: np.ndarray) -> str:
    return {1: "mono", 2: "stereo", 6: "5.1"}[1 if samples.ndim == 1 else samples.shape[1]]
