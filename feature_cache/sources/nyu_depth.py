"""NYU Depth V2: HDF5 files in tar archives become PNG files in folders."""

import io
import multiprocessing
import os
import signal
import tarfile
import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, UInt16

from feature_cache.sources.unpack import Progress, UnpackError, write

if TYPE_CHECKING:
    from PIL.Image import Image

WORKERS = min(8, os.cpu_count() or 1)
DEEPEST = 65_535
"""Millimetres, the most that 16 bits hold."""
_IN_FLIGHT = 4  # per worker: enough to keep it busy, few enough to fit into memory


def convert(archive: Path, folder: Path, progress: Progress, workers: int = WORKERS) -> None:
    """Turns `<split>-*.tar` into `<folder>/raw_data/<split>/<scene>/<frame>/{rgb,depth}.png`.

    A member is named `…/<scene>/<frame>.h5` and has `rgb`, uint8 [3, h, w], and `depth` in metres, [h, w]. Frames
    whose two pictures are there are passed over.

    Args:
        workers: processes that encode; 0 = this one.

    Raises `UnpackError` if the archive or a member is damaged.
    """
    root = folder / "raw_data" / archive.name.partition("-")[0]
    try:
        if workers == 0:
            for frame, content in _missing_frames(archive, root, progress):
                write_frame(content, frame)
        else:
            _in_processes(_missing_frames(archive, root, progress), workers)
    except (tarfile.TarError, EOFError) as error:
        raise UnpackError(f"{archive} is damaged ({error}): delete it and give the same command again.") from error


def _missing_frames(archive: Path, root: Path, progress: Progress) -> Iterator[tuple[Path, bytes]]:
    """The folders of the frames that are still to be made, with the bytes of their HDF5 files."""
    total = archive.stat().st_size
    with archive.open("rb") as raw, tarfile.open(fileobj=raw) as opened:
        for member in opened:
            path = PurePosixPath(member.name)
            if member.isfile() and path.suffix == ".h5" and not path.name.startswith("."):
                frame = root / _scene(archive, path) / path.stem
                content = opened.extractfile(member)
                if content and not all((frame / name).exists() for name in ("rgb.png", "depth.png")):
                    yield frame, content.read()
            progress(min(raw.tell(), total), total)


def _scene(archive: Path, path: PurePosixPath) -> str:
    if path.parent.name in ("", "..", "/") or path.stem in ("", ".", ".."):
        raise UnpackError(f"{archive} has {str(path)!r} in it, which should be named <scene>/<frame>.h5.")
    return path.parent.name


def _in_processes(frames: Iterator[tuple[Path, bytes]], workers: int) -> None:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _end_with_parent) as pool:
        try:
            running: set[Future[None]] = set()
            for frame, content in frames:
                running.add(pool.submit(write_frame, content, frame))
                if len(running) >= workers * _IN_FLIGHT:
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    for finished in done:
                        finished.result()
            for finished in running:
                finished.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _end_with_parent() -> None:
    """Workers of a parent that was killed would wait for work forever; Ctrl-C is for the parent to handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        if parent := multiprocessing.parent_process():
            parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def write_frame(content: bytes, frame: Path) -> None:
    """Writes the two pictures of one HDF5 file. Raises `UnpackError` if it is not as it should be."""
    import h5py
    from PIL import Image as images

    try:
        with h5py.File(io.BytesIO(content), "r") as file:
            rgb, depth = np.asarray(file["rgb"]), np.asarray(file["depth"])
    except (OSError, KeyError) as error:
        raise UnpackError(
            f"The file of the frame {frame} is damaged: {error}. Delete its archive to try again."
        ) from error
    if rgb.shape != (3, *depth.shape) or depth.ndim != 2 or rgb.dtype != np.uint8:
        raise UnpackError(
            f"The file of the frame {frame} should have rgb, uint8 [3, h, w], and depth [h, w], but has {rgb.dtype} "
            f"{list(rgb.shape)} and {list(depth.shape)}."
        )
    _write_png(images.fromarray(np.ascontiguousarray(np.moveaxis(rgb, 0, -1))), frame / "rgb.png")
    _write_png(images.fromarray(millimetres(depth)), frame / "depth.png")


def millimetres(depth: Float[np.ndarray, "h w"]) -> UInt16[np.ndarray, "h w"]:
    """Metres as whole millimetres: 0 where there is none (0, negative, NaN or infinite), at most 65.535 m.

    >>> millimetres(np.array([[1.2344, 0.0, np.nan, np.inf, 70.0]])).tolist()
    [[1234, 0, 0, 0, 65535]]
    """
    known = np.where(np.isfinite(depth), depth, 0).astype(np.float64)
    return np.clip(np.rint(known * 1000), 0, DEEPEST).astype(np.uint16)


def _write_png(picture: "Image", path: Path) -> None:
    file = io.BytesIO()
    picture.save(file, format="PNG")
    file.seek(0)
    write(file, path)
