"""A picture of a fixed width on which things are placed by pixel."""

import io

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Rectangle
from matplotlib.textpath import text_to_path
from matplotlib.transforms import Affine2D
from PIL import Image

WIDTH = 1600
"""Pixels; the page of a repository shows about two thirds of them."""
DPI = 64  # a power of two, so that whole pixels stay whole as inches
INK = "#2B2B2B"


class Sheet:
    """A figure whose coordinates are pixels from its top left corner."""

    def __init__(self, height: int) -> None:
        self.height = height
        self.figure = Figure(figsize=(WIDTH / DPI, height / DPI), dpi=DPI, facecolor="white")
        self._pixels = Affine2D().scale(1, -1).translate(0, height)

    def text(self, x: float, y: float, text: str, size: int, colour: str = INK, **more: str) -> None:
        """Writes a line on the baseline `y`."""
        more = {"va": "baseline", **more}
        self.figure.text(x, y, text, fontsize=size * 72 / DPI, color=colour, transform=self._pixels, **more)  # type: ignore[arg-type]

    def bar(self, x: int, y: int, width: int, height: int, colour: str) -> None:
        self.figure.add_artist(
            Rectangle((x, y), width, height, color=colour, lw=0, antialiased=False, transform=self._pixels)
        )

    def axes(self, x: int, y: int, width: int, height: int) -> Axes:
        """Axes without a frame, ticks or names."""
        bottom = (self.height - y - height) / self.height
        axes = self.figure.add_axes((x / WIDTH, bottom, width / WIDTH, height / self.height))
        axes.set_axis_off()
        return axes

    def png(self) -> bytes:
        """The same bytes every time with the same libraries."""
        canvas, buffer = FigureCanvasAgg(self.figure), io.BytesIO()
        canvas.draw()
        Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").save(buffer, "PNG", optimize=True)
        return buffer.getvalue()


def broken(text: str, width: float, size: int) -> list[str]:
    """The lines of a text that are as long as they can be; a word that is longer has a line of its own."""
    lines: list[str] = []
    for word in text.split():
        if lines and _width(f"{lines[-1]} {word}", size) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def _width(text: str, size: int) -> float:
    font = FontProperties(family="DejaVu Sans", size=size)
    return float(text_to_path.get_text_width_height_descent(text, font, ismath=False)[0])
