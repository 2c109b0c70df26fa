"""What an encoder has to offer to be driven by the extraction."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
from jaxtyping import Float

from feature_cache.datasets.base import Raw
from feature_cache.errors import UserError
from feature_cache.manifest import ModalitySpec

PRECISIONS = ("float32", "float16", "bfloat16")


class Encoder(Protocol):
    """A frozen network, or several, that turns raw media into embeddings.

    Constructed as `EncoderClass(device, precision, weights)`. Worker processes get a copy of it by pickling, made
    before the first call of `embed`, and call `preprocess` alone, which should not import torch.

    `name` and `preprocessing_version` are class attributes, and neither importing the module nor constructing the
    class may import torch or read weights: whether a cache is up to date is decided from them alone, in well under a
    second. Import torch where the networks are loaded, on the first call of `embed`.

    Attributes:
        name: the key in `feature_cache.encoders.REGISTRY`; also the folder of its caches.
        preprocessing_version: changes whenever the embedding of the same medium does, weights apart.
        precisions: in what it can compute, "float32" first.
        modalities: width and scale of each modality's embedding.
        precision: in what it does compute, one of `precisions`.
    """

    name: ClassVar[str]
    preprocessing_version: ClassVar[str]
    precisions: ClassVar[tuple[str, ...]]
    modalities: Mapping[str, ModalitySpec]
    precision: str

    def __init__(self, device: str = "auto", precision: str = "float32", weights: Path | None = None) -> None:
        """
        Args:
            device: "auto" (the GPU where there is one, else the CPU), "cpu" or "cuda".
            precision: "float32", or "float16" or "bfloat16" by autocast; results are float32 all the same.
            weights: file or folder of the checkpoint; None = `default_weights(name)`.

        Raises `UserError` for a precision that is none of `precisions`, and for weights where it takes none.
        """
        ...

    def weights_sha256(self) -> str:
        """Hexadecimal SHA-256 of all weights; differs whenever any of them does. Raises `UserError` without weights."""
        ...

    def preprocess(self, modality: str, raw: Raw) -> np.ndarray[Any, Any]:
        """One medium -> the array that `embed` takes. May raise anything on a broken medium: it is then listed."""
        ...

    def embed(self, modality: str, batch: Sequence[np.ndarray[Any, Any]]) -> Float[np.ndarray, "n dim"]:
        """A list of n preprocessed media, maybe of different lengths -> float32 embeddings, in the same order.

        A row must not depend on the other rows of its batch beyond rounding.
        """
        ...


def default_weights(encoder: str) -> Path:
    """Where a checkpoint is looked for, and downloaded to, unless --weights says otherwise.

    >>> default_weights("imagebind").as_posix()
    'weights/imagebind'
    """
    return Path("weights") / encoder


def check_precision(encoder: type[Encoder], precision: str) -> None:
    """Raises `UserError` unless the encoder can compute in this precision."""
    if precision not in encoder.precisions:
        raise UserError(
            f"The encoder {encoder.name} cannot compute with --precision={precision}, only with "
            f"{' or '.join(encoder.precisions)}."
        )


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
