"""Pictures with transparency, as they look on paper."""

from pathlib import Path
from typing import IO

from PIL import Image


def on_white(picture: Image.Image) -> Image.Image:
    """Composites a picture on white: [h, w] RGB."""
    rgba = picture.convert("RGBA")
    white = Image.new("RGBA", rgba.size, "white")
    return Image.alpha_composite(white, rgba).convert("RGB")


def open_on_white(file: "Path | IO[bytes]") -> Image.Image:
    """Opens a picture and composites it on white: [h, w] RGB."""
    with Image.open(file) as picture:
        return on_white(picture)
