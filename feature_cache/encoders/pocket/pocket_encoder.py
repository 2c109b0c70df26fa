"""What the pocket encoders share: small pretrained networks out of packages, and how each wants its medium."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
from jaxtyping import Float, Float32, Int64

from feature_cache.datasets.base import Clip, DepthMap, Motion, Raw, Video, Waveform
from feature_cache.decoding.sampling import middles
from feature_cache.encoders.base import check_precision, choose_device
from feature_cache.encoders.media_types import expect
from feature_cache.encoders.pocket import efficientnet_lite, minilm, paraphrase, whisper, yamnet
from feature_cache.encoders.pocket.depth_picture import depth_picture
from feature_cache.encoders.pocket.log_mel import log_mel_patches
from feature_cache.encoders.pocket.motion_spectra import motion_spectra
from feature_cache.encoders.pocket.whisper_log_mel import whisper_log_mel
from feature_cache.encoders.weights.packages import PackageFile, sha256_of
from feature_cache.errors import UserError
from feature_cache.manifest import ModalitySpec
from feature_cache.registry import check_name

Array = np.ndarray[Any, Any]

SCALE = math.sqrt(20)
"""Length of every embedding. Dot products lie within ±20 and serve as logits at temperature 1, as ImageBind's do."""

VIDEO_FRAMES = 8
"""Pictures taken of a video that is not a short `Clip` already."""


class SentenceNetwork(Protocol):
    """What `embed` of `MiniLM` and `ParaphraseMiniLM` is."""

    def embed(self, texts: Sequence[Int64[np.ndarray, " tokens"]]) -> Float32[np.ndarray, "n dim"]:
        """Embeddings of tokenized texts, of unit length."""
        ...


@dataclass(frozen=True)
class Sentences:
    """A sentence encoder: its files, its tokenizer, and its network, loaded on a device."""

    files: tuple[PackageFile, ...]
    tokenize: Callable[[str], Int64[np.ndarray, " tokens"]]
    load: Callable[[str], SentenceNetwork]


MINILM = Sentences(minilm.FILES, minilm.tokenize, minilm.MiniLM)
PARAPHRASE = Sentences(paraphrase.FILES, paraphrase.tokenize, paraphrase.ParaphraseMiniLM)


@dataclass(frozen=True)
class Parts:
    """What one pocket encoder may choose otherwise than another; YAMNet and Whisper are in all of them."""

    sentences: Sentences
    pictures: efficientnet_lite.Variant


class PocketEncoder(ABC):
    """An `Encoder` made of its class's `parts`; `device` is "auto", "cpu" or "cuda".

    Each network is loaded on its first use. A subclass says what becomes of pictures and sounds.
    """

    name: ClassVar[str]
    preprocessing_version: ClassVar[str]
    modalities: Mapping[str, ModalitySpec]
    precisions: ClassVar[tuple[str, ...]] = ("float32",)
    parts: ClassVar[Parts]

    def __init__(self, device: str = "auto", precision: str = "float32", weights: Path | None = None) -> None:
        check_precision(type(self), precision)
        if weights is not None:
            raise UserError(
                f"--weights={weights}: the encoder {self.name} has its weights in packages, and takes none."
            )
        self.precision = precision
        self._requested_device = device

    def weights_sha256(self) -> str:
        """Over weights, tokenizers and class names of all networks. Raises `WeightsError` if one is missing."""
        return sha256_of(self.parts.sentences.files + self.parts.pictures.files + yamnet.FILES + whisper.FILES)

    def preprocess(self, modality: str, raw: Raw) -> Array:
        """One medium -> what its network takes.

            text    str         int64 [tokens]                   word-piece ids
            vision  PIL.Image   uint8 [size, size, 3]            padded to a white square
            depth   DepthMap    uint8 [size, size, 3]
            video   Video       uint8 [frames, size, size, 3]    8 frames, but all of a Clip
            audio   Waveform    float32 [patches, 96, 64]        log-mel, 0.96 s each
            speech  Waveform    float32 [80, frames]             log-mel, 10 ms each
            imu     Motion      float32 [384]                    means and cross-spectra

        Raises:
            TypeError: the medium is not of its modality's type.
            ValueError: a waveform, a depth map or motion has impossible values, or a video has no frames.
            UnknownNameError: the encoder has no such modality.
        """
        check_name(self.modalities, f"modality of {self.name}", modality)
        if modality == "text":
            return self.parts.sentences.tokenize(expect(raw, str))
        if modality == "audio":
            return log_mel_patches(expect(raw, Waveform))
        if modality == "speech":
            return whisper_log_mel(expect(raw, Waveform))
        if modality == "imu":
            return motion_spectra(expect(raw, Motion))
        if modality == "video":
            return self._squares(expect(raw, Video))  # type: ignore[type-abstract]
        return self._square(depth_picture(expect(raw, DepthMap)) if modality == "depth" else raw)

    def embed(self, modality: str, batch: Sequence[Array]) -> Float32[np.ndarray, "n dim"]:
        """Embeddings of length √20. A row depends on the rest of its batch only by rounding.

        Raises:
            UnknownNameError: the encoder has no such modality.
            WeightsError: the network's package is missing or damaged.
        """
        check_name(self.modalities, f"modality of {self.name}", modality)
        if not batch:
            return np.zeros((0, self.modalities[modality].dim), np.float32)
        features = self._features(modality, batch)
        return np.asarray(SCALE * features / np.linalg.norm(features, axis=1, keepdims=True), np.float32)

    @abstractmethod
    def sounds(self, batch: Sequence[Array]) -> Float[np.ndarray, "n dim"]:
        """Embeddings of sounds that are not speech, of any length."""

    @abstractmethod
    def pictures(self, clips: Sequence[Array]) -> Float[np.ndarray, "n dim"]:
        """Embeddings of clips [frames, size, size, 3], of any length; a still picture is a clip of one frame."""

    def _features(self, modality: str, batch: Sequence[Array]) -> Float[np.ndarray, "n dim"]:
        if modality == "text":
            return self._sentences.embed(batch)
        if modality == "speech":
            return self._whisper.embed(batch)
        if modality == "imu":
            return np.stack(batch)
        if modality == "audio":
            return self.sounds(batch)
        return self.pictures(batch if modality == "video" else [picture[None] for picture in batch])

    def _square(self, picture: object) -> Array:
        from PIL.Image import Image

        return efficientnet_lite.square(expect(picture, Image), self.parts.pictures.size)

    def _squares(self, video: Video) -> Array:
        if not len(video):
            raise ValueError("A video should have at least one frame, but has none.")
        frames = video.frames if isinstance(video, Clip) else video.pick(middles(len(video), VIDEO_FRAMES))
        return np.stack([self._square(frame) for frame in frames])

    @cached_property
    def _device(self) -> str:
        return choose_device(self._requested_device)

    @cached_property
    def _sentences(self) -> SentenceNetwork:
        return self.parts.sentences.load(self._device)

    @cached_property
    def _efficientnet(self) -> efficientnet_lite.EfficientNetLite:
        return efficientnet_lite.EfficientNetLite(self.parts.pictures, self._device)

    @cached_property
    def _yamnet(self) -> yamnet.YAMNet:
        return yamnet.YAMNet(self._device)

    @cached_property
    def _whisper(self) -> whisper.Whisper:
        return whisper.Whisper()


def mean_over_frames(
    network: Callable[[Array], Float32[np.ndarray, "frames dim"]], clips: Sequence[Array]
) -> Float32[np.ndarray, "n dim"]:
    """The mean of a network's outputs over each clip's frames; all clips go through it together."""
    ends = np.cumsum([len(clip) for clip in clips])
    return np.stack([part.mean(0) for part in np.split(network(np.concatenate(clips)), ends[:-1])])
