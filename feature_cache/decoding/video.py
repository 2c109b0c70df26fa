"""Opens video files."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from feature_cache.datasets.base import Video

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class VideoFile(Video):
    """A video on disk, whose frames are decoded when they are picked. Make one with `open_video`.

    Attributes:
        path: the file.
        rate: frames per second, on average.
        frames: how many there are.
    """

    path: Path
    rate: float
    frames: int

    def __len__(self) -> int:
        return self.frames

    def pick(self, indices: Sequence[int]) -> "list[Image]":
        """The frames at these indices: RGB, upright. Decodes the file once, from its beginning to the last of them.

        Raises:
            IndexError: there is no frame with such an index.
            ValueError: the file is damaged, or ends before the last of the frames.
        """
        wrong = [index for index in indices if not 0 <= index < self.frames]
        if wrong:
            raise IndexError(f"The video {self.path} has frames 0 to {self.frames - 1}, but {wrong[0]} is wanted.")
        wanted = set(indices)
        found = _decode(self.path, wanted) if wanted else {}
        if len(found) < len(wanted):
            raise ValueError(
                f"The video {self.path} ends too early: of its {self.frames} frames, number "
                f"{min(wanted - set(found))} cannot be decoded."
            )
        return [found[index] for index in indices]


def open_video(path: Path) -> VideoFile:
    """Looks through a video file without decoding it.

    The frames are counted, because headers are often wrong about their number.

    Raises:
        OSError: there is no such file.
        ValueError: the file is no video, has no frames, is damaged, or ends too early.
    """
    import av

    try:
        with av.open(str(path)) as container:
            stream = _track(container, path)
            rate = stream.average_rate or stream.guessed_rate
            frames = sum(_is_frame(packet, path) for packet in container.demux(stream))
    except av.FFmpegError as error:
        raise _unreadable(path, error) from error
    if not frames or not rate:
        raise ValueError(f"The video {path} has {frames} frames, {float(rate or 0):g} a second.")
    return VideoFile(path, float(rate), frames)


def _decode(path: Path, wanted: set[int]) -> "dict[int, Image]":
    import av

    found: dict[int, Image] = {}
    try:
        with av.open(str(path)) as container:
            stream = _track(container, path)
            stream.codec_context.thread_count = 1  # the extraction has a process for every core already
            for index, frame in enumerate(container.decode(stream)):
                if index in wanted:
                    found[index] = _upright(frame)
                if index == max(wanted):
                    break
    except av.FFmpegError as error:
        raise _unreadable(path, error) from error
    return found


def _track(container: Any, path: Path) -> Any:
    """The first video track that is not the picture on a record's cover."""
    import av

    tracks = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    if not tracks:
        raise ValueError(f"The file {path} has no video track.")
    return tracks[0]


def _is_frame(packet: Any, path: Path) -> bool:
    """Whether a packet is a frame to be shown: not the empty one at the end, nor one that only others need."""
    if packet.is_corrupt:
        raise ValueError(f"The video {path} ends too early, or is damaged.")
    return packet.size > 0 and not packet.is_discard


def _upright(frame: Any) -> "Image":
    """The frame as a telephone that was held sideways would show it."""
    picture: Image = frame.to_image()
    return picture.rotate(frame.rotation, expand=True) if frame.rotation else picture


def _unreadable(path: Path, error: Exception) -> Exception:
    if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError):
        return error
    return ValueError(f"The video {path} cannot be decoded: {error}")
