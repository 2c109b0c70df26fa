"""LLVIP: streets at night, each seen by an ordinary and by an infrared camera at the same time."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from feature_cache.datasets.base import Item, Raw
from feature_cache.datasets.published import Layout, published_splits, stem
from feature_cache.datasets.splits import members
from feature_cache.decoding.pictures import open_picture
from feature_cache.manifest import ClassLabel, MediaSource


class Llvip:
    """12,025 and 3,463 pairs without texts or classes. Infrared pictures may be grey or RGB: encoders take either."""

    name = "llvip"
    version = "1"
    modalities = ("vision", "thermal")
    classes: tuple[ClassLabel, ...] = ()
    open_classes: tuple[ClassLabel, ...] = ()
    sources = (
        MediaSource(
            "LLVIP, a visible-infrared paired dataset for low-light vision",
            "2021",
            "non-commercial, see LLVIP's terms of use",
            "https://github.com/bupt-ai-cz/LLVIP",
        ),
    )
    synthetic = False
    layout = "llvip/LLVIP/{visible,infrared}/{train,test}/*.jpg, with equal names in visible and infrared"

    def __init__(self, data_root: Path) -> None:
        layout = Layout(self.name, data_root, self.layout)
        self._splits = published_splits(_pairs(layout, "train"), _pairs(layout, "test"))

    def items(self, split: str) -> Sequence[Item]:
        return members(self._splits, split)


def _pairs(layout: Layout, split: str) -> Iterator[Item]:
    folders = {"vision": f"llvip/LLVIP/visible/{split}", "thermal": f"llvip/LLVIP/infrared/{split}"}
    names = {name for folder in folders.values() for name in layout.files(folder, ".jpg")}  # half a pair is a failure
    for name in sorted(names):
        files = {modality: layout.root / folder / name for modality, folder in folders.items()}
        media: dict[str, Callable[[], Raw]] = {
            modality: partial(open_picture, file) for modality, file in files.items()
        }
        yield Item(stem(name), "", media=media)
