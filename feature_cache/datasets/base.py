"""What a dataset has to offer to be extracted: items whose media are opened when asked for."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol, TypeAlias

import numpy as np
from jaxtyping import Float32

from feature_cache.manifest import ClassLabel, MediaSource

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True, eq=False)
class Waveform:
    """Sound, one channel.

    Attributes:
        samples: amplitudes, full scale is ±1.
        rate: samples per second.
    """

    samples: Float32[np.ndarray, " t"]
    rate: int


@dataclass(frozen=True, eq=False)
class DepthMap:
    """Distance from the camera's plane at every pixel.

    Attributes:
        depth: in `unit`s; infinite where there is nothing, NaN where the camera has no measurement.
        unit: how many metres one is; None where nobody knows.
    """

    depth: Float32[np.ndarray, "h w"]
    unit: float | None = None


class Video(ABC):
    """Moving pictures of one size, without sound. `len` of it is the number of its frames.

    Attributes:
        rate: frames per second.
    """

    rate: float

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def pick(self, indices: Sequence[int]) -> "list[Image]":
        """The frames at these indices, which do not decrease; one may be asked for several times."""


@dataclass(frozen=True, eq=False)
class Clip(Video):
    """A short video that is in memory: a few pictures, evenly spaced, in order."""

    frames: "Sequence[Image]"
    rate: float = 4.0

    def __len__(self) -> int:
        return len(self.frames)

    def pick(self, indices: Sequence[int]) -> "list[Image]":
        return [self.frames[index] for index in indices]


@dataclass(frozen=True, eq=False)
class Motion:
    """What an inertial sensor on a body measures.

    Attributes:
        samples: three axes of acceleration in g, then three of rotation in rad/s.
        rate: samples per second.
    """

    samples: Float32[np.ndarray, "t 6"]
    rate: int


Raw: TypeAlias = "str | Image | Waveform | DepthMap | Video | Motion"


@dataclass(frozen=True)
class Item:
    """One row of a dataset: the same thing seen in every modality of it.

    Attributes:
        id: unique in its split, stable over runs.
        caption: what a person would call it; the text modality's medium unless `media` has one.
        label: index into the dataset's `classes`; -1 = no class.
        open_label: index into the dataset's `open_classes`; -1 = none.
        media: per modality a function that opens the medium; it may raise anything on a broken one.
    """

    id: str
    caption: str
    label: int = -1
    open_label: int = -1
    media: Mapping[str, "Callable[[], Raw]"] = field(default_factory=dict)

    def open(self, modality: str) -> "Raw":
        """The raw medium of one modality.

        >>> Item("cat", "a cat").open("text")
        'a cat'
        """
        if modality == "text" and "text" not in self.media:
            return self.caption
        return self.media[modality]()


class Dataset(Protocol):
    """Items in three splits. Constructed as `DatasetClass(data_root)`.

    `name` and `version` are class attributes, and importing the module must be cheap: whether a cache is up to date
    is decided from them alone, without constructing the dataset. The constructor raises `MediaError` if media are
    missing below `data_root`, and says what to run to get them.

    Attributes:
        name: the key in `feature_cache.datasets.REGISTRY`; also the folder of its caches.
        version: changes whenever items, captions, labels, splits or media do.
        modalities: in storage order (`MODALITY_ORDER`).
        classes: what `Item.label` counts; () without classes.
        open_classes: what `Item.open_label` counts: kinds of things, whose texts are nobody's caption; () without.
        sources: where the media come from and under which licence.
        synthetic: whether the media were made up rather than recorded, drawn or modelled by somebody.
    """

    name: ClassVar[str]
    version: ClassVar[str]
    modalities: tuple[str, ...]
    classes: tuple[ClassLabel, ...]
    open_classes: tuple[ClassLabel, ...]
    sources: tuple[MediaSource, ...]
    synthetic: bool

    def __init__(self, data_root: Path) -> None: ...

    def items(self, split: str) -> Sequence[Item]:
        """The items of "train", "validation" or "test", always in the same order; may be empty."""
        ...
