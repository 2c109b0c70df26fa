"""Clotho's sounds: each archive becomes the folder of its split, whatever folders are inside."""

from pathlib import Path, PurePosixPath

from feature_cache.sources.unpack import Progress, unpack


def unpack_sounds(archive: Path, folder: Path, progress: Progress) -> None:
    """Unpacks `clotho_audio_<split>.7z` to `<folder>/<split>/*.wav`. Raises like `unpack`."""
    split = archive.stem.rpartition("_")[2]

    def place(path: PurePosixPath) -> PurePosixPath | None:
        return PurePosixPath(split, path.name) if path.suffix == ".wav" else None

    unpack(archive, folder, progress, place)
