"""Opens sound files, and the sound of videos."""

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from feature_cache.datasets.base import Waveform


def open_waveform(source: Path | bytes) -> Waveform:
    """The first channel of a sound file, or of the bytes of one, at the file's own rate.

    The first channel and not the mean of all, because the encoders were trained so. libsndfile reads what it can (wav,
    flac, ogg, mp3), FFmpeg the rest (mp4, m4a, webm, mkv, avi: the first sound track of a video).

    Raises:
        OSError: there is no such file.
        ValueError: the file is empty, has no sound track, no samples, or some that are not finite; it is damaged, or
            ends too early.
    """
    content = source if isinstance(source, bytes) else source.read_bytes()
    if not content:
        raise ValueError("The sound file is empty: it has 0 bytes.")
    import soundfile

    try:
        samples, rate = _with_libsndfile(content)
    except soundfile.LibsndfileError as error:
        samples, rate = _with_ffmpeg(content, str(error))
    if not samples.size:
        raise ValueError("The sound has no samples.")
    if not np.isfinite(samples).all():
        raise ValueError(f"{np.count_nonzero(~np.isfinite(samples))} of {samples.size} samples are not finite.")
    return Waveform(samples, rate)


def _with_libsndfile(content: bytes) -> tuple[Float32[np.ndarray, " t"], int]:
    import soundfile

    with soundfile.SoundFile(BytesIO(content)) as file:
        _check_length_of_wav(content)
        samples = file.read(dtype="float32", always_2d=True)
        if len(samples) < file.frames:
            raise ValueError(f"The sound ends too early: {len(samples)} of {file.frames} samples can be decoded.")
        return np.ascontiguousarray(samples[:, 0]), int(file.samplerate)


def _check_length_of_wav(content: bytes) -> None:
    """Raises `ValueError` if the samples of a wav file end before its header says so; libsndfile does not mind."""
    if content[:4] != b"RIFF" or content[8:12] != b"WAVE":
        return
    start = 12
    while start + 8 <= len(content):
        name, size = content[start : start + 4], int.from_bytes(content[start + 4 : start + 8], "little")
        there = len(content) - start - 8
        if name == b"data":
            # A program that writes into a pipe cannot know the size, and leaves the greatest that fits there.
            if there < size < 0x7FFFF000:
                raise ValueError(f"The sound ends too early: its header promises {size} bytes, {there} are there.")
            return
        start += 8 + size + size % 2


def _with_ffmpeg(content: bytes, otherwise: str) -> tuple[Float32[np.ndarray, " t"], int]:
    import av

    try:
        with av.open(BytesIO(content)) as container:
            if not container.streams.audio:
                raise ValueError("The file has no sound track.")
            stream = container.streams.audio[0]
            stream.codec_context.thread_count = 1
            to_planes = av.AudioResampler(format="fltp")
            parts, rate = [], 0
            for packet in container.demux(stream):
                if packet.is_corrupt:
                    raise ValueError("The sound track ends too early, or is damaged.")
                for frame in packet.decode():
                    rate = frame.sample_rate
                    parts += [_first_plane(plain) for plain in to_planes.resample(frame)]
    except av.FFmpegError as error:
        raise ValueError(f"Neither libsndfile nor FFmpeg can decode the sound: {otherwise} {error}") from error
    return np.concatenate(parts or [np.zeros(0, np.float32)]), rate


def _first_plane(frame: Any) -> Float32[np.ndarray, " t"]:
    return np.asarray(frame.to_ndarray()[0], np.float32)
