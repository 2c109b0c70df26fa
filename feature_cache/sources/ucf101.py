"""UCF101's clips, wherever in an archive they are: in folders of their split, or in an archive named after it."""

from pathlib import Path, PurePosixPath

from feature_cache.sources.unpack import Progress, UnpackError, unpack

SPLITS = ("train", "test", "val")


def unpack_clips(archive: Path, folder: Path, progress: Progress) -> None:
    """Unpacks an archive to `<folder>/UCF101/<split>/<Class>/*.avi`; what is no clip is left out.

    Raises like `unpack`, and `UnpackError` for a clip whose split cannot be told.
    """

    def place(path: PurePosixPath) -> PurePosixPath | None:
        if path.suffix != ".avi" or path.name.startswith("."):
            return None
        split = next((part for part in reversed(path.parts[:-2]) if part in SPLITS), archive.stem)
        if split not in SPLITS or len(path.parts) < 2:
            raise UnpackError(
                f"{archive} has {str(path)!r} in it, which should be named <split>/<Class>/<clip>.avi. Unpack it by "
                f"hand to {folder}/UCF101/{{train,test,val}}/<Class>/*.avi."
            )
        return PurePosixPath("UCF101", split, path.parent.name, path.name)

    unpack(archive, folder, progress, place)
