"""VGGSound's clips: of the 199,176 in its archives only those are unpacked that the paper's part may need."""

from pathlib import Path, PurePosixPath

from feature_cache.sources.tables import VGGSOUND_CLIPS, VGGSOUND_LIST, vggsound_clips
from feature_cache.sources.unpack import Progress, unpack

CANDIDATES = {"train": 2 * 10_001, "test": 2 * 2_001}
"""Twice the clips that the paper uses, since it passes over those that are missing. A larger part needs more."""


def unpack_wanted(archive: Path, folder: Path, progress: Progress) -> None:
    """Unpacks the first clips of the list from `vggsound_*.tar.gz`; the list has to be in the folder already.

    Raises like `unpack`.
    """
    table = folder / VGGSOUND_LIST
    wanted = {name for split, limit in CANDIDATES.items() for name in vggsound_clips(table, split, limit)}

    def place(path: PurePosixPath) -> PurePosixPath | None:
        return PurePosixPath(VGGSOUND_CLIPS, path.name) if path.suffix == ".mp4" and path.stem in wanted else None

    unpack(archive, folder, progress, place)
