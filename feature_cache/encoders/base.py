"""What an encoder has to offer to be driven by the extraction."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

import numpy as np
from jaxtyping import Float

from feature_cache.datasets.base import Raw
from feature_cache.errors import UserError
from feature_cache.manifest import ModalitySpec


class Encoder(Protocol):
    """A frozen network, or several, that turns raw media into embeddings. Constructed as `EncoderClass(device)`.

    `name` and `preprocessing_version` are class attributes, and neither importing the module nor constructing the
    class may import torch or read weights: whether a cache is up to date is decided from them alone, in well under a
    second. Import torch where the networks are loaded, on the first call of `embed`.

    Attributes:
        name: the key in `feature_cache.encoders.REGISTRY`; also the folder of its caches.
        preprocessing_version: changes whenever the embedding of the same medium does, weights apart.
        modalities: width and scale of each modality's embedding.
    """

    name: ClassVar[str]
    preprocessing_version: ClassVar[str]
    modalities: Mapping[str, ModalitySpec]

    def __init__(self, device: str = "auto") -> None:
        """`device` is "auto" (the GPU where there is one, else the CPU), "cpu" or "cuda"."""
        ...

    def weights_sha256(self) -> str:
        """Hexadecimal SHA-256 of all weights; differs whenever any of them does."""
        ...

    def preprocess(self, modality: str, raw: Raw) -> np.ndarray[Any, Any]:
        """One medium -> the array that `embed` takes. May raise anything on a broken medium: it is then listed."""
        ...

    def embed(self, modality: str, batch: Sequence[np.ndarray[Any, Any]]) -> Float[np.ndarray, "n dim"]:
        """A list of n preprocessed media, maybe of different lengths -> float32 embeddings, in the same order.

        A row must not depend on the other rows of its batch beyond rounding.
        """
        ...


def choose_device(device: str) -> str:
    """What torch calls the device: "auto" is "cuda" where it sees a GPU, else "cpu". Imports torch, except for "cpu".

    Raises `UserError` for "cuda" where torch sees no GPU.
    """
    if device == "cpu":
        return device
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if device == "auto":
        return "cpu"
    raise UserError(
        f"--device={device} needs a GPU, but torch {torch.__version__} can use none on this machine. Use --device=cpu, "
        "or --device=auto, which takes the GPU where there is one."
    )
