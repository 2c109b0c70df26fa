"""The encoder "pocketbind": three small pretrained networks bound by language, whose weights come inside packages.

    text    MiniLM                                                        384 wide, the common space
    vision  EfficientNet-Lite0, probabilities of 1000 ImageNet classes    -> ConSE
    depth   the same, on the depth map shown as a grey picture            -> ConSE
    audio   YAMNet, scores of 521 AudioSet classes                        -> ConSE

ConSE replaces a classifier's output by the mean of MiniLM's embeddings of its most probable classes' names. All
modalities thus share one space in which they are aligned with text, and through text with each other, zero-shot.
"""

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import Any, ClassVar, TypeVar

import numpy as np
from jaxtyping import Float, Float32

from feature_cache.datasets.base import DepthMap, Raw, Waveform
from feature_cache.encoders import efficientnet_lite, minilm, yamnet
from feature_cache.encoders.base import choose_device
from feature_cache.encoders.conse import conse
from feature_cache.encoders.depth_picture import depth_picture
from feature_cache.encoders.log_mel import log_mel_patches
from feature_cache.encoders.packages import sha256_of
from feature_cache.manifest import ModalitySpec
from feature_cache.registry import check_name

Array = np.ndarray[Any, Any]
_Medium = TypeVar("_Medium")

SCALE = math.sqrt(20)
"""Length of every embedding. Dot products lie within ±20 and serve as logits at temperature 1, as ImageBind's do."""


class PocketBind:
    """See the module's docstring. `device` is "auto", "cpu" or "cuda"; each network is loaded on its first use."""

    name: ClassVar[str] = "pocketbind"
    preprocessing_version: ClassVar[str] = "1"
    modalities: Mapping[str, ModalitySpec] = MappingProxyType(
        {modality: ModalitySpec(dim=minilm.DIM, scale=SCALE) for modality in ("vision", "text", "audio", "depth")}
    )

    def __init__(self, device: str = "auto") -> None:
        self._requested_device = device

    def weights_sha256(self) -> str:
        """Over weights, tokenizer and class names of all networks. Raises `WeightsError` if one is missing."""
        return sha256_of(minilm.FILES + efficientnet_lite.FILES + yamnet.FILES)

    def preprocess(self, modality: str, raw: Raw) -> Array:
        """One medium -> what its network takes.

            text    str         int64 [tokens]           word-piece ids
            vision  PIL.Image   uint8 [224, 224, 3]      padded to a white square
            depth   DepthMap    uint8 [224, 224, 3]
            audio   Waveform    float32 [patches, 96, 64]  log-mel, 0.96 s each

        Raises:
            TypeError: the medium is not of its modality's type.
            ValueError: a waveform or depth map has impossible values.
            UnknownNameError: the encoder has no such modality.
        """
        check_name(self.modalities, "modality of pocketbind", modality)
        if modality == "text":
            return minilm.tokenize(_expect(raw, str))
        if modality == "audio":
            return log_mel_patches(_expect(raw, Waveform))
        if modality == "depth":
            return efficientnet_lite.square(depth_picture(_expect(raw, DepthMap)))
        from PIL.Image import Image

        return efficientnet_lite.square(_expect(raw, Image))

    def embed(self, modality: str, batch: Sequence[Array]) -> Float32[np.ndarray, "n 384"]:
        """Embeddings of length √20. A row depends on the rest of its batch only by rounding.

        Raises:
            UnknownNameError: the encoder has no such modality.
            WeightsError: the network's package is missing or damaged.
        """
        check_name(self.modalities, "modality of pocketbind", modality)
        if not batch:
            return np.zeros((0, minilm.DIM), np.float32)
        return (SCALE * self._unit_embeddings(modality, batch)).astype(np.float32)

    def _unit_embeddings(self, modality: str, batch: Sequence[Array]) -> Float[np.ndarray, "n 384"]:
        if modality == "text":
            return self._minilm.embed(batch)
        if modality == "audio":
            return conse(self._yamnet.scores(batch), self._audioset_names)
        return conse(self._efficientnet.probabilities(batch), self._imagenet_names)

    @cached_property
    def _device(self) -> str:
        return choose_device(self._requested_device)

    @cached_property
    def _minilm(self) -> minilm.MiniLM:
        return minilm.MiniLM(self._device)

    @cached_property
    def _efficientnet(self) -> efficientnet_lite.EfficientNetLite0:
        return efficientnet_lite.EfficientNetLite0(self._device)

    @cached_property
    def _yamnet(self) -> yamnet.YAMNet:
        return yamnet.YAMNet(self._device)

    @cached_property
    def _imagenet_names(self) -> Float32[np.ndarray, "1000 384"]:
        return self._embed_names(efficientnet_lite.class_names())

    @cached_property
    def _audioset_names(self) -> Float32[np.ndarray, "521 384"]:
        return self._embed_names(yamnet.class_names())

    def _embed_names(self, names: Sequence[str]) -> Float32[np.ndarray, "classes 384"]:
        tokens = [minilm.tokenize(name) for name in names]
        return np.concatenate([self._minilm.embed(tokens[at : at + 64]) for at in range(0, len(tokens), 64)])


def _expect(raw: Raw, kind: type[_Medium]) -> _Medium:
    if not isinstance(raw, kind):
        raise TypeError(f"Expected a medium of type {kind.__qualname__}, but got a {type(raw).__qualname__}: {raw!r}.")
    return raw
