"""NYU Depth v2: rooms seen by a Kinect, as picture and depth map."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from feature_cache.datasets.base import Item, Raw
from feature_cache.datasets.published import Layout, published_splits
from feature_cache.datasets.splits import members
from feature_cache.decoding.depth import open_depth
from feature_cache.decoding.pictures import open_picture
from feature_cache.manifest import ClassLabel, MediaSource

ROOT = "nyu-d-2/raw_data"
OFFICIAL = "official"
"""The folder that has all test frames, of whatever scene, in the original release."""


class NyuDepthV2:
    """47,584 and 654 frames; class and text are the kind of scene, the folder's name before its first "_".

    All test frames of the original release are in one folder, "official", numbered; that word is then all that the
    layout says of their scene, and their caption, as published. Where a frame in it is called after its scene
    ("kitchen_0004_00012"), the caption is the scene. The ids are the published ones either way.
    """

    name = "nyudv2"
    version = "2"
    modalities = ("vision", "text", "depth")
    open_classes: tuple[ClassLabel, ...] = ()
    sources = (
        MediaSource(
            "NYU Depth v2 (hub sayakpaul/nyu_depth_v2)",
            "main",
            "Apache-2.0 as the hub says",
            "https://cs.nyu.edu/~fergus/datasets/nyu_depth_v2.html",
        ),
    )
    synthetic = False
    layout = f"{ROOT}/{{train,val}}/<scene>/<frame>/{{rgb,depth}}.png"

    def __init__(self, data_root: Path) -> None:
        layout = Layout(self.name, data_root, self.layout)
        frames = {split: list(_frames(layout, split)) for split in ("train", "val")}
        names = sorted({scene_of(*frame) for found in frames.values() for frame in found})
        self.classes = tuple(ClassLabel(name, name) for name in names)
        labels = {name: number for number, name in enumerate(names)}
        items = ([_item(layout.root / ROOT / s, *frame, labels) for frame in found] for s, found in frames.items())
        self._splits = published_splits(*items)

    def items(self, split: str) -> Sequence[Item]:
        return members(self._splits, split)


def scene_of(folder: str, frame: str) -> str:
    """The kind of scene of a frame.

    >>> scene_of("home_office_0004", "00012")
    'home'
    >>> scene_of("official", "kitchen_0004_00012"), scene_of("official", "00012")
    ('kitchen', 'official')
    """
    named = folder == OFFICIAL and not frame[:1].isdigit()
    return (frame if named else folder).partition("_")[0]


def _frames(layout: Layout, split: str) -> Iterator[tuple[str, str]]:
    """The folders of a split and the frames in them."""
    for folder in layout.folders(f"{ROOT}/{split}"):
        yield from ((folder, frame) for frame in layout.folders(f"{ROOT}/{split}/{folder}"))


def _item(root: Path, folder: str, frame: str, labels: Mapping[str, int]) -> Item:
    path, scene = root / folder / frame, scene_of(folder, frame)
    media: dict[str, Callable[[], Raw]] = {
        "vision": partial(open_picture, path / "rgb.png"),
        "depth": partial(open_depth, path / "depth.png"),
    }
    return Item(f"{folder}_{frame}", scene, labels[scene], media=media)
