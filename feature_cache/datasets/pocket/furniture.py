"""Furniture and other things of a house from Sweet Home 3D's catalogues: icon, name, depth rendered from the model."""

import io
import zipfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from feature_cache.datasets.base import DepthMap, Item, Raw
from feature_cache.datasets.pocket.archives import archive_named, damaged, unpacked
from feature_cache.datasets.pocket.catalogues import Catalogue, Piece, read_catalogue
from feature_cache.datasets.pocket.meshes import Vertices, read_obj
from feature_cache.datasets.pocket.pictures import open_on_white
from feature_cache.datasets.pocket.rendering import catalogue_view, depth_map
from feature_cache.datasets.splits import caption_key, members, partition
from feature_cache.manifest import ClassLabel, MediaSource

if TYPE_CHECKING:
    from PIL.Image import Image

SIDE = 224
"""Pixels of a depth map's side."""

CC_BY = "Creative Commons Attribution 3.0"
CATALOGUES = (
    Catalogue("BlendSwap-CC-0.sh3f", "Public domain", "CC0-1.0", "Blend Swap contributors and Emmanuel Puybaret"),
    Catalogue("BlendSwap-CC-BY.sh3f", CC_BY, "CC-BY-3.0", "Blend Swap contributors, named in docs/pocket.md"),
    Catalogue("KatorLegaz.sh3f", f"{CC_BY} United States", "CC-BY-3.0-US", "Andrew Kator & Jennifer Legaz"),
    Catalogue("Reallusion.sh3f", f"{CC_BY} United States", "CC-BY-3.0-US", "Reallusion, http://www.reallusion.com"),
    Catalogue(
        "Scopia.sh3f",
        CC_BY,
        "CC-BY-3.0",
        "Emmanuel Puybaret / eTeks and Scopia Visual Interfaces Systems, s.l., http://www.scopia.es",
    ),
)
"""All that the package has; any other file that lies beside them is not read."""

CATEGORIES = {
    "Bathroom": "bathroom furniture and fixtures",
    "Bedroom": "bedroom furniture and clothes",
    "Characters": "people",
    "Doors and windows": "doors and windows",
    "Exterior": "garden and street",
    "Kitchen": "kitchen furniture, tableware and food",
    "Lights": "lamps and lights",
    "Living room": "living room furniture and decoration",
    "Miscellaneous": "miscellaneous household items",
    "Office": "office furniture and supplies",
    "Staircases": "staircases",
    "Vehicles": "vehicles",
}
"""The catalogues' categories and what people would call them."""


class Furniture:
    """About 800 things with a picture of 128 × 128 and a depth map of 224 × 224 pixels, split by name."""

    name = "furniture"
    version = "2"
    modalities = ("vision", "text", "depth")
    classes = ()
    open_classes = tuple(ClassLabel(category, text) for category, text in CATEGORIES.items())
    sources = tuple(
        MediaSource(
            f"Sweet Home 3D furniture, {catalogue.file} (Debian sweethome3d-furniture), by {catalogue.attribution}",
            "1.8-1",
            catalogue.license,
            archive_named("sweethome3d-furniture").url,
        )
        for catalogue in CATALOGUES
    )
    synthetic = False

    def __init__(self, data_root: Path) -> None:
        folder = unpacked(data_root, "sweethome3d-furniture") / "usr" / "share" / "sweethome3d" / "furniture"
        pieces = [piece for catalogue in CATALOGUES for piece in read_catalogue(folder / catalogue.file, catalogue)]
        items = [_item(piece) for piece in pieces]
        self._splits = partition(items, lambda item: caption_key(item.caption))

    def items(self, split: str) -> Sequence[Item]:
        return members(self._splits, split)


def _item(piece: Piece) -> Item:
    if piece.category not in CATEGORIES:
        valid = ", ".join(CATEGORIES)
        raise damaged(piece.archive, f"files '{piece.name}' under '{piece.category}', which is none of {valid}")
    media: dict[str, Callable[[], Raw]] = {"vision": partial(_icon, piece), "depth": partial(_depth, piece)}
    return Item(piece.id, piece.name, open_label=list(CATEGORIES).index(piece.category), media=media)


def _icon(piece: Piece) -> "Image":
    return open_on_white(io.BytesIO(_member(piece, piece.icon)))


def _depth(piece: Piece) -> DepthMap:
    """The depth, in metres, as seen by a camera at the front right that looks slightly down."""
    vertices, triangles = read_obj(_member(piece, piece.model))
    vertices = _to_scale(vertices @ piece.rotation.T, piece)
    return DepthMap(depth_map(vertices, triangles, catalogue_view(vertices, SIDE)))


def _to_scale(vertices: Vertices, piece: Piece) -> Vertices:
    """Stretches a model to its real width, height and depth, as Sweet Home 3D does; what is flat stays flat."""
    extent = np.ptp(vertices, axis=0)
    scaled: Vertices = vertices * np.divide(piece.size, extent, out=np.ones(3), where=extent > 0)
    return scaled


def _member(piece: Piece, name: str) -> bytes:
    with zipfile.ZipFile(piece.archive) as archive:
        return archive.read(name)
