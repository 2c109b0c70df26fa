"""Pictures with transparency, as they look on paper."""

from pathlib import Path
from typing import IO

from PIL import Image


def on_white(file: "Path | IO[bytes]") -> Image.Image:
    """Opens a picture and composites it on white: [h, w] RGB."""
    with Image.open(file) as picture:
        rgba = picture.convert("RGBA")
    white = Image.new("RGBA", rgba.size, "white")
    return Image.alpha_composite(white, rgba).convert("RGB")
