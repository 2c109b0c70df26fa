"""Opens video files."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from feature_cache.datasets.base import Video
from feature_cache.decoding.wholeness import check_whole

if TYPE_CHECKING:
    from PIL.Image import Image

_UNCODED = 19
"""Bytes. An encoder of MPEG-4 such as xvid may put no more than a header where a frame looks like the one before."""


@dataclass(frozen=True)
class VideoFile(Video):
    """A video on disk, whose frames are decoded when they are picked. Make one with `open_video`.

    Attributes:
        path: the file.
        rate: frames per second, on average.
        frames: how many there are.
        has_gaps: whether some of them may not be coded, because they look like the one before.
    """

    path: Path
    rate: float
    frames: int
    has_gaps: bool = False

    def __len__(self) -> int:
        return self.frames

    def pick(self, indices: Sequence[int]) -> "list[Image]":
        """The frames at these indices: RGB, upright. Decodes the file once, from its
        beginning to the last of them; one with gaps is decoded a second time, to find them.

        decord 0.6, which ImageBind and LanguageBind decode with, gives the same pixels, but of an avi with B-frames
        others than are asked for, because it jumps and the file tells no times.

        Raises:
            IndexError: there is no frame with such an index.
            ValueError: the file is damaged, or ends before the last of the frames.
        """
        wrong = [index for index in indices if not 0 <= index < self.frames]
        if wrong:
            raise IndexError(f"The video {self.path} has frames 0 to {self.frames - 1}, but {wrong[0]} is wanted.")
        if not indices:
            return []
        shown = _frames_shown(self.path) if self.has_gaps else range(self.frames)
        wanted = {shown[index] for index in indices if index < len(shown)}
        found = _decode(self.path, wanted) if max(indices) < len(shown) else {}
        if len(found) < len(wanted) or not found:
            raise ValueError(
                f"The video {self.path} ends too early, or is damaged: the decoder gives fewer frames than the "
                f"{self.frames} that its container has."
            )
        return [found[shown[index]] for index in indices]


def open_video(path: Path) -> VideoFile:
    """Looks through a video file without decoding it.

    The frames are counted, because headers are often wrong about their number.

    Raises:
        OSError: there is no such file.
        ValueError: the file is no video, has no frames, is damaged, or ends too early.
    """
    with path.open("rb") as file:
        check_whole(file)
    with _opened(path) as (container, stream):
        rate = stream.average_rate or stream.guessed_rate
        sizes = [packet.size for packet in container.demux(stream) if _is_frame(packet, path)]
        has_gaps = stream.codec_context.name == "mpeg4" and min(sizes, default=0) <= _UNCODED
    if not sizes or not rate:
        raise ValueError(f"The video {path} has {len(sizes)} frames, {float(rate or 0):g} a second.")
    return VideoFile(path, float(rate), len(sizes), has_gaps)


def _decode(path: Path, wanted: set[int]) -> "dict[int, Image]":
    """Those of the wanted frames that there are; frames are counted as the decoder gives them."""
    found: dict[int, Image] = {}
    with _opened(path) as (container, stream):
        for index, frame in enumerate(container.decode(stream)):
            if index in wanted:
                found[index] = _upright(frame)
            if index == max(wanted):
                break
    return found


def _frames_shown(path: Path) -> list[int]:
    """For each frame that the container has, which of those that the decoder gives is on the screen then."""
    times, decoded = [], []
    with _opened(path) as (container, stream):
        for packet in container.demux(stream):
            times += [packet.pts] if _is_frame(packet, path) else []
            decoded += [frame.pts for frame in packet.decode()]
    is_timed = None not in times + decoded and all(a < b for a, b in pairwise(decoded))
    if len(decoded) < len(times) and decoded and is_timed and decoded[0] <= min(times):
        return [bisect_right(decoded, time) - 1 for time in sorted(times)]
    return list(range(len(decoded)))


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """A container and its video track."""
    import av

    try:
        with av.open(str(path)) as container:
            # Not the picture on a record's cover.
            cover = av.stream.Disposition.attached_pic
            tracks = [track for track in container.streams.video if not track.disposition & cover]
            if not tracks:
                raise ValueError(f"The file {path} has no video track.")
            tracks[0].codec_context.thread_count = 1  # the extraction has a process for every core already
            yield container, tracks[0]
    except av.FFmpegError as error:
        raise ValueError(f"The video {path} cannot be decoded: {error.strerror}.") from error


def _is_frame(packet: Any, path: Path) -> bool:
    """Whether a packet is a frame to be shown: not the empty one at the end, nor one that only others need."""
    if packet.is_corrupt:
        raise ValueError(f"The video {path} ends too early, or is damaged.")
    return packet.size > 0 and not packet.is_discard


def _upright(frame: Any) -> "Image":
    """The frame as a telephone that was held sideways would show it."""
    picture: Image = frame.to_image()
    return picture.rotate(frame.rotation, expand=True) if frame.rotation else picture
