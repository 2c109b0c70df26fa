"""ImageBind: seven modalities in one space of 1024 dimensions (Girdhar et al., CVPR 2023, arXiv:2305.05665)."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
from jaxtyping import Float32

from feature_cache.checksums import sha256_of_file
from feature_cache.datasets.base import DepthMap, Raw, Video, Waveform
from feature_cache.encoders import imagebind_preprocessing as preprocessing
from feature_cache.encoders.base import PRECISIONS, check_precision, choose_device
from feature_cache.encoders.imagebind_code import HUGE, build
from feature_cache.encoders.inference import inference
from feature_cache.encoders.media_types import expect
from feature_cache.encoders.weights.checkpoints import Checkpoint, FileCheckpoint, weights_command
from feature_cache.encoders.weights.state_dicts import load_strictly, read_state_dict
from feature_cache.manifest import ModalitySpec
from feature_cache.registry import check_name

if TYPE_CHECKING:
    import torch
    from torch import nn

Array = np.ndarray[Any, Any]

SCALES = {
    "vision": 1.0, "text": 1 / 0.07, "audio": 20.0, "thermal": 10.0, "depth": 5.0, "video": 1.0, "tactile": 1.0,
}  # fmt: skip
"""With what the network multiplies an embedding of unit length.

That of text was trained, from 1 / 0.07 on, up to at most 100; only the checkpoint knows it. Sounds and videos are means
over clips, and so shorter.
"""
_TOWERS = {"video": "vision", "tactile": "vision"}
"""Modalities that go through another's tower; what a GelSight sensor feels is a picture, as in the public reference."""


class ImageBind:
    """An `Encoder` with the published weights of imagebind_huge.

    Embeddings are what the network gives, scaled as it scales them (`SCALES`). The network's tower for motion is not
    used: upstream does not say how it wants its input.

    Nothing is dropped out. The public reference (`imagebind_preprocessing`) leaves the network in training mode, in
    which the tower for sound skips layers at random, each with a probability of up to 0.1.
    """

    name: ClassVar[str] = "imagebind"
    preprocessing_version: ClassVar[str] = "2"
    precisions: ClassVar[tuple[str, ...]] = PRECISIONS
    checkpoint: ClassVar[Checkpoint] = FileCheckpoint(
        name="imagebind_huge.pth",
        license="CC-BY-NC-SA-4.0",
        home="https://github.com/facebookresearch/ImageBind",
        size=4_803_584_173,
        url="https://dl.fbaipublicfiles.com/imagebind/imagebind_huge.pth",
        # Upstream publishes none; this is what others got from there.
        sha256="d6f6c22bedcc90708448d5d2fbb7b2db9c73f505dc89bd0b2e09b23af1b62157",
    )
    architecture: ClassVar[Mapping[str, int]] = HUGE
    modalities: Mapping[str, ModalitySpec]

    def __init__(self, device: str = "auto", precision: str = "float32", weights: Path | None = None) -> None:
        check_precision(type(self), precision)
        self.precision = precision
        dim = self.architecture["out_embed_dim"]
        self.modalities = {modality: ModalitySpec(dim, scale) for modality, scale in SCALES.items()}
        self._requested_device = device
        self._weights = weights

    def __getstate__(self) -> dict[str, Any]:
        """Without the network: a process that only preprocesses needs none."""
        return {name: value for name, value in vars(self).items() if name not in ("_network", "_device")}

    def weights_sha256(self) -> str:
        """Of the checkpoint's file. Raises `WeightsError` if there is none."""
        return sha256_of_file(self.checkpoint.locate(self.name, self._weights))

    def preprocess(self, modality: str, raw: Raw) -> Array:
        """One medium -> what its tower takes.

            vision   PIL.Image   float32 [3, 224, 224]
            text     str         int64 [77]
            audio    Waveform    float32 [3, 1, 128, 204]        clips, channel, mel bands, frames of 10 ms
            thermal  PIL.Image   float32 [1, 224, 224]
            depth    DepthMap    float32 [1, 224, 224]
            video    Video       float32 [15, 3, 2, 224, 224]    5 clips × 3 parts, colours, frames
            tactile  PIL.Image   float32 [3, 224, 224]

        Raises:
            TypeError: the medium is not of its modality's type.
            ValueError: it has no samples or frames, impossible values, or no size.
            UnknownNameError: the encoder has no such modality.
            WeightsError: the package with the vocabulary is not installed.
        """
        check_name(self.modalities, f"modality of {self.name}", modality)
        if modality == "text":
            return preprocessing.text_tokens(expect(raw, str))
        if modality == "audio":
            bins, frames = self.architecture["audio_num_mel_bins"], self.architecture["audio_target_len"]
            return preprocessing.sound(expect(raw, Waveform), bins, frames)
        if modality == "depth":
            return preprocessing.depth_map(expect(raw, DepthMap))
        if modality == "video":
            return preprocessing.video_clips(expect(raw, Video))  # type: ignore[type-abstract]
        from PIL.Image import Image

        image = expect(raw, Image)
        return preprocessing.thermal_picture(image) if modality == "thermal" else preprocessing.picture(image)

    def embed(self, modality: str, batch: Sequence[Array]) -> Float32[np.ndarray, "n dim"]:
        """The network's embeddings of preprocessed media. A row depends on the rest of its batch only by rounding.

        Raises:
            UnknownNameError: the encoder has no such modality.
            WeightsError: the checkpoint or the network's package is missing, damaged, or does not fit.
            MemoryError: the batch is too large for the device.
        """
        check_name(self.modalities, f"modality of {self.name}", modality)
        if not batch:
            return np.zeros((0, self.modalities[modality].dim), np.float32)
        import torch

        tower = _TOWERS.get(modality, modality)
        network, device = self._network, self._device
        with inference(device, self.precision):
            inputs = torch.from_numpy(np.stack(batch)).to(device)
            return np.asarray(network({tower: inputs})[tower].float().cpu().numpy())

    def parameters_of(self, state: "dict[str, torch.Tensor]") -> "dict[str, torch.Tensor]":
        """The network's parameters, by its own names, out of what the checkpoint holds."""
        return state

    @cached_property
    def _device(self) -> str:
        return choose_device(self._requested_device)

    @cached_property
    def _network(self) -> "nn.Module":
        path = self.checkpoint.locate(self.name, self._weights)
        remedy = f"`{weights_command(self.name)}` says where {self.checkpoint.name} is from; --weights names another."
        network = build(self.architecture)
        load_strictly(network, self.parameters_of(read_state_dict(path, remedy)), path, remedy)
        return _with_exact_ends(network, self._device).to(self._device)


def _with_exact_ends(network: Any, device: str) -> "nn.Module":
    """The same network, whose first and last layers are in float32 whatever the precision.

    They are a small part of the work, but a large one of what bfloat16 costs in exactness: with them in bfloat16,
    features of sounds were off by more than 1 %.
    """
    import torch

    for part in (*network.modality_preprocessors.values(), *network.modality_heads.values()):
        part.forward = torch.autocast(device, enabled=False)(part.forward)
    return cast("nn.Module", network)
