"""Opens sound files, and the sound of videos."""

from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Float32

from feature_cache.datasets.base import Waveform
from feature_cache.decoding.wholeness import check_whole

_Sound = tuple[Float32[np.ndarray, " t"], int]


def open_waveform(source: Path | bytes) -> Waveform:
    """The first channel of a sound file, or of the bytes of one, at the file's own rate.

    The first channel and not the mean of all, because ImageBind takes that. libsndfile reads what it can (wav, flac,
    ogg, mp3), FFmpeg the rest (mp4, m4a, webm, mkv, avi: the first sound track of a video).

    Raises:
        OSError: there is no such file.
        ValueError: the file is empty, has no sound track, no samples, or some that are not finite; it is damaged, or
            ends too early.
    """
    import soundfile

    with BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
        check_whole(file)
        length_is_known = not _is_mp3_without_length(file)
        file.seek(0)
        try:
            sound = soundfile.SoundFile(file)
        except soundfile.LibsndfileError as error:
            samples, rate = _with_ffmpeg(file, error)
        else:
            with sound:
                samples, rate = _with_libsndfile(sound, length_is_known)
    if not samples.size:
        raise ValueError("The sound has no samples.")
    if not np.isfinite(samples).all():
        raise ValueError(f"{np.count_nonzero(~np.isfinite(samples))} of {samples.size} samples are not finite.")
    return Waveform(samples, rate)


def _with_libsndfile(sound: Any, length_is_known: bool) -> _Sound:
    import soundfile

    try:
        samples = sound.read(dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise ValueError(f"The sound is damaged: {error.error_string}") from error
    if len(samples) < sound.frames and length_is_known:
        raise ValueError(f"The sound ends too early: {len(samples)} of {sound.frames} samples can be decoded.")
    return np.ascontiguousarray(samples[:, 0]), int(sound.samplerate)


def _is_mp3_without_length(file: BinaryIO) -> bool:
    """Whether an mp3 lacks the Xing or Info frame, behind its ID3 tag, that tells how long it is."""
    file.seek(0)
    start = file.read(10)
    if start[:3] == b"ID3":
        file.seek(10 + sum((byte & 127) << 7 * place for place, byte in enumerate(reversed(start[6:10]))))
    else:
        file.seek(0)
    frame = file.read(192)
    return frame[:1] == b"\xff" and b"Xing" not in frame and b"Info" not in frame


def _with_ffmpeg(file: BinaryIO, otherwise: Exception) -> _Sound:
    import av

    file.seek(0)
    try:
        with av.open(file) as container:
            if not container.streams.audio:
                raise ValueError("The file has no sound track.")
            return _first_track(container)
    except av.FFmpegError as error:
        raise ValueError(
            f"Neither libsndfile ({getattr(otherwise, 'error_string', otherwise)}) nor FFmpeg ({error.strerror}) can "
            "decode the sound."
        ) from error


def _first_track(container: Any) -> _Sound:
    import av

    stream = container.streams.audio[0]
    stream.codec_context.thread_count = 1  # the extraction has a process for every core already
    to_planes = av.AudioResampler(format="fltp")
    planes, rate = [np.zeros(0, np.float32)], 0
    for packet in container.demux(stream):
        if packet.is_corrupt:
            raise ValueError("The sound track ends too early, or is damaged.")
        for frame in packet.decode():
            rate = frame.sample_rate
            planes += [plain.to_ndarray()[0] for plain in to_planes.resample(frame)]
    return np.concatenate(planes), rate
