"""The paper's seven datasets as shapes: modalities, classes and row counts, without any content."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

from feature_cache.manifest import ClassLabel

SCALES = {"vision": 1.0, "text": 14.0, "audio": 20.0, "thermal": 10.0, "depth": 5.0, "video": 1.0, "tactile": 1.0}
"""Norms of ImageBind's embeddings; it embeds tactile pictures with its vision tower."""
AVERAGED = ("audio", "video")
"""Modalities whose embedding is a mean over clips, and therefore shorter than its scale."""

Caption: TypeAlias = Literal["class", "own", "none"]


@dataclass(frozen=True)
class Shape:
    """One dataset.

    Attributes:
        name: as in `configs/paper.py`.
        modalities: in storage order.
        train, test: rows at factor 1.
        classes: how many; 0 without classes.
        caption: "class": the class's text; "own": a text for each row; "none": no text.
    """

    name: str
    modalities: tuple[str, ...]
    train: int
    test: int
    classes: int
    caption: Caption

    def labels(self) -> tuple[ClassLabel, ...]:
        """The classes: name and text."""
        names = [f"class {i:03d}" for i in range(self.classes)]
        return tuple(ClassLabel(name, f"synthetic {self.name} {name}") for name in names)

    def counts(self, factor: float, test_factor: float) -> dict[str, int]:
        """Rows of each split; validation is a tenth of the scaled training split, and no part of it.

        >>> SHAPES["esc50"].counts(factor=0.1, test_factor=1)
        {'train': 160, 'validation': 16, 'test': 400}
        """
        train = max(1, round(self.train * factor))
        return {
            "train": train,
            "validation": max(1, round(train / 10)),
            "test": max(1, round(self.test * test_factor)),
        }


TVL_PAIRS, TVL_TEST = 43_741, 437
"""The number of TVL's pairs is known; that one in a hundred is for testing is an assumption."""
SHAPES = {
    shape.name: shape
    for shape in (
        Shape("ucf101", ("text", "video"), 10_055, 3_265, 101, "class"),
        Shape("esc50", ("text", "audio"), 1_600, 400, 50, "class"),
        Shape("nyudv2", ("vision", "text", "depth"), 47_584, 654, 27, "class"),
        Shape("clotho", ("text", "audio"), 3_839, 1_045, 0, "own"),
        Shape("vggsound_s", ("text", "audio", "video"), 10_001, 2_001, 309, "class"),
        Shape("tvl", ("vision", "text", "tactile"), TVL_PAIRS - TVL_TEST, TVL_TEST, 0, "own"),
        Shape("llvip", ("vision", "thermal"), 12_025, 3_463, 0, "none"),
    )
}
"""By name, in the order of the paper's stream."""
