"""Opens picture files."""

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image


def open_picture(source: Path | bytes) -> "Image":
    """The picture in a file, or in the bytes of one, upright and in memory.

    The mode is the file's: RGB, RGBA, L, P, I;16 and whatever else Pillow knows.

    Raises:
        OSError: there is no such file, it is no picture (`PIL.UnidentifiedImageError`), or it ends too early.
    """
    from PIL import Image, ImageOps

    with Image.open(BytesIO(source) if isinstance(source, bytes) else source) as picture:
        picture.load()
        return ImageOps.exif_transpose(picture)  # a copy, which does not need the file any more
