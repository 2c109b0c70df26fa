"""An encoder without weights for every modality: an embedding says how large a medium is, and its mean."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from feature_cache.datasets.base import DepthMap, Motion, Raw, Video, Waveform
from feature_cache.manifest import MODALITY_ORDER, ModalitySpec

ENTRY = "tests.plain_encoder:PlainBind"


class PlainBind:
    """Medium -> (number of values / 256, mean / 256, last value / 256, 1); a text's values are its UTF-8 bytes."""

    name: ClassVar[str] = "plainbind"
    preprocessing_version: ClassVar[str] = "1"
    precisions: ClassVar[tuple[str, ...]] = ("float32",)
    modalities: ClassVar[dict[str, ModalitySpec]] = {modality: ModalitySpec(4) for modality in MODALITY_ORDER}

    def __init__(self, device: str = "auto", precision: str = "float32", weights: Path | None = None) -> None:
        self.precision = precision

    def weights_sha256(self) -> str:
        return "cd" * 32

    def preprocess(self, modality: str, raw: Raw) -> np.ndarray[Any, Any]:
        match raw:
            case str():
                return np.frombuffer(raw.encode(), np.uint8)
            case Waveform() | Motion():
                return raw.samples
            case DepthMap():
                return raw.depth
            case Video():
                return np.stack([np.asarray(frame) for frame in raw.pick(range(len(raw)))])
            case Image.Image():
                return np.asarray(raw)
        raise TypeError(type(raw))

    def embed(self, modality: str, batch: Sequence[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
        return np.stack([plain(values) for values in batch])


def plain(values: Any) -> np.ndarray[Any, Any]:
    """The embedding of an array of any shape; of an empty one, too."""
    flat = np.asarray(values, np.float64).ravel()
    mean, last = (flat.mean(), flat[-1]) if flat.size else (0.0, 0.0)
    return np.array([flat.size / 256, mean / 256, last / 256, 1.0], np.float32)
