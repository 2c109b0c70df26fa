"""TVL: things as a camera sees them, as a touch sensor's camera feels them, and in words."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from feature_cache.datasets.base import Item, Raw
from feature_cache.datasets.published import Layout, published_splits
from feature_cache.datasets.splits import members
from feature_cache.decoding.pictures import open_picture
from feature_cache.manifest import ClassLabel, MediaSource

ROOT = "tvl/tvl_dataset"
SUBSETS = ("ssvtp", "hct/data1", "hct/data2", "hct/data3")


class Tvl:
    """43,741 pairs with captions in four subsets, each with a table of its own.

    A table that has no column of tactile pictures (ssvtp's test table) names them by its camera's: "tac" for "rgb".
    A row without a caption is no item, as published. In the hub's release some recordings of hct have the camera's
    pictures in `tactile` and the sensor's in `vision`. The tables cannot tell which; as published, they are believed.
    The release yoorhim/TVL-revise has the same layout with these put right.
    """

    name = "tvl"
    version = "1"
    modalities = ("vision", "text", "tactile")
    classes: tuple[ClassLabel, ...] = ()
    open_classes: tuple[ClassLabel, ...] = ()
    sources = (
        MediaSource(
            "Touch-Vision-Language dataset (hub mlfu7/Touch-Vision-Language-Dataset)",
            "main",
            "not stated",
            "https://tactile-vlm.github.io",
        ),
    )
    synthetic = False
    layout = f"{ROOT}/{{{','.join(SUBSETS)}}}/{{train,test}}.csv and the pictures that they name, relative to them"

    def __init__(self, data_root: Path) -> None:
        layout = Layout(self.name, data_root, self.layout)
        train, test = ([item for subset in SUBSETS for item in _rows(layout, subset, s)] for s in ("train", "test"))
        self._splits = published_splits(train, test)

    def items(self, split: str) -> Sequence[Item]:
        return members(self._splits, split)


def cleaned(caption: str) -> str:
    """A caption as published: without full stops and the line ends of some tables.

    >>> cleaned("soft, smooth.\\r\\n")
    'soft, smooth'
    """
    return caption.replace("\r\n", "").replace(".", "")


def _rows(layout: Layout, subset: str, split: str) -> Iterator[Item]:
    folder = layout.root / ROOT / subset
    for number, row in enumerate(layout.table(f"{ROOT}/{subset}/{split}.csv", ("url", "caption"))):
        if not row["caption"]:
            continue
        tactile = row["tactile"] if "tactile" in row else row["url"].replace("rgb", "tac")
        media: dict[str, Callable[[], Raw]] = {
            "vision": partial(open_picture, folder / row["url"]),
            "tactile": partial(open_picture, folder / tactile),
        }
        yield Item(f"vision_{subset.replace('/', '_')}_{number}", cleaned(row["caption"]), media=media)
