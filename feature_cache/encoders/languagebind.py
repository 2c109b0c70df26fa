"""The encoder "languagebind": LanguageBind, towers bound by language, all 768 wide.

Zhu et al., "LanguageBind: Extending Video-Language Pretraining to N-modality by Language-based Semantic Alignment",
ICLR 2024, arXiv:2310.01852. Each modality has a checkpoint on the Hugging Face hub:

    vision, tactile  LanguageBind_Image      text, depth  LanguageBind_Depth     thermal  LanguageBind_Thermal
    audio            LanguageBind_Audio_FT   video        LanguageBind_Video_FT

Texts have length 1. All others have length exp(logit_scale), the inverse temperature that their tower was trained with;
each tower has its own, and it is what the manifest calls the modality's scale.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from jaxtyping import Float32

from feature_cache.checksums import sha256_of_files
from feature_cache.datasets.base import DepthMap, Raw, Video, Waveform
from feature_cache.encoders.base import PRECISIONS, check_precision, choose_device, default_weights
from feature_cache.encoders.front_ends.clip_tokens import ClipTokenizer
from feature_cache.encoders.inference import inference
from feature_cache.encoders.languagebind_preprocessing import (
    audio_spectra,
    depth_pixels,
    picture_pixels,
    video_pixels,
)
from feature_cache.encoders.languagebind_snapshot import CHECKPOINT, FOLDERS, TOWERS, Snapshot
from feature_cache.encoders.media_types import expect
from feature_cache.encoders.weights.hub_checkpoint import HubCheckpoint
from feature_cache.manifest import ModalitySpec
from feature_cache.registry import check_name

if TYPE_CHECKING:
    import torch

Array = np.ndarray[Any, Any]

_PUBLISHED_DIM = 768
_INITIAL_SCALE = math.exp(2.6592)  # with which upstream's training starts


class LanguageBind:
    """See the module's docstring. Each tower is loaded on its first use.

    `weights` is the folder of the checkpoints' folders; what is in their config.json holds, be they the published ones
    or not.

    Attributes:
        modalities: of the class what was published, each scale being the one before training; of an encoder what its
            checkpoints say, which are read when a modality is looked up.
    """

    name: ClassVar[str] = "languagebind"
    preprocessing_version: ClassVar[str] = "1"
    precisions: ClassVar[tuple[str, ...]] = PRECISIONS
    checkpoint: ClassVar[HubCheckpoint] = CHECKPOINT
    modalities: Mapping[str, ModalitySpec] = MappingProxyType(
        {m: ModalitySpec(_PUBLISHED_DIM, 1.0 if m == "text" else _INITIAL_SCALE) for m in TOWERS}
    )

    def __init__(self, device: str = "auto", precision: str = "float32", weights: Path | None = None) -> None:
        check_precision(type(self), precision)
        self.precision = precision
        self._requested_device = device
        self._folder = default_weights(self.name) if weights is None else Path(weights)
        self._snapshots = {folder: Snapshot(self._folder / folder) for folder in FOLDERS}
        self.modalities = _Stated({modality: self._snapshots[folder] for modality, folder in TOWERS.items()})
        self._towers: dict[tuple[str, str], torch.nn.Module] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._requested_device, self.precision, self._folder)  # without what was loaded

    def weights_sha256(self) -> str:
        """Over the tokenizer and all towers' configurations and weights. Raises `WeightsError` if one is missing."""
        files = [file for folder in FOLDERS for file in self._snapshots[folder].files]
        return sha256_of_files([*files, *self._snapshots[TOWERS["text"]].tokenizer])

    def preprocess(self, modality: str, raw: Raw) -> Array:
        """One medium -> what its tower takes.

            text                      str        int64 [77]                    CLIP's token ids
            vision, thermal, tactile  PIL.Image  float32 [3, 224, 224]
            depth                     DepthMap   float32 [3, 224, 224]
            video                     Video      float32 [3, 8, 224, 224]      evenly spaced frames
            audio                     Waveform   float32 [3, 112, 1036]        log-mel, three chunks of 10.4 s

        The numbers of frames and mel bins are those of the published towers; config.json has them.

        Raises:
            TypeError: the medium is not of its modality's type.
            ValueError: a picture has more than 8 bits a channel, a video no frames, a sound less than 25 ms, or a depth
                map impossible values.
            UnknownNameError: the encoder has no such modality.
            WeightsError: a tower's config.json, or the tokenizer, is missing.
        """
        check_name(TOWERS, f"modality of {self.name}", modality)
        if modality == "text":
            return self._tokenizer.encode(expect(raw, str))
        if modality == "audio":
            return audio_spectra(expect(raw, Waveform), self._snapshot(modality).audio)
        if modality == "video":
            return video_pixels(expect(raw, Video), self._snapshot(modality).frames)  # type: ignore[type-abstract]
        if modality == "depth":
            return depth_pixels(expect(raw, DepthMap), self._snapshot(modality).max_depth)
        from PIL.Image import Image

        return picture_pixels(expect(raw, Image))

    def embed(self, modality: str, batch: Sequence[Array]) -> Float32[np.ndarray, "n dim"]:
        """Embeddings of length 1 for texts, exp(logit_scale) for the rest. A row depends on its batch by rounding only.

        Raises:
            UnknownNameError: the encoder has no such modality.
            WeightsError: the checkpoint is missing or damaged, or does not fit; or transformers is too new.
        """
        check_name(TOWERS, f"modality of {self.name}", modality)
        if not batch:
            return np.zeros((0, self._snapshot(modality).dim), np.float32)
        import torch

        tower = self._tower(modality)
        media = torch.from_numpy(np.stack(batch)).to(self._device)
        with inference(self._device, self.precision):
            return np.asarray(tower(media).cpu().numpy())

    def _tower(self, modality: str) -> "torch.nn.Module":
        """The network of a modality; pictures and tactile pictures share theirs."""
        from feature_cache.encoders.languagebind_towers import MediaTower, TextTower

        kind = TextTower if modality == "text" else MediaTower
        key = (TOWERS[modality], kind.__name__)
        if key not in self._towers:
            self._towers[key] = kind(self._snapshot(modality)).to(self._device)
        return self._towers[key]

    def _snapshot(self, modality: str) -> Snapshot:
        return self._snapshots[TOWERS[modality]]

    @cached_property
    def _device(self) -> str:
        return choose_device(self._requested_device)

    @cached_property
    def _tokenizer(self) -> ClipTokenizer:
        return ClipTokenizer.from_files(*self._snapshot("text").tokenizer)


class _Stated(Mapping[str, ModalitySpec]):
    """Width and scale of each modality, out of its tower's checkpoint when they are asked for."""

    def __init__(self, snapshots: Mapping[str, Snapshot]) -> None:
        self._snapshots = snapshots
        self._known: dict[str, ModalitySpec] = {}

    def __getitem__(self, modality: str) -> ModalitySpec:
        if modality not in self._known:
            snapshot = self._snapshots[modality]
            self._known[modality] = ModalitySpec(snapshot.dim, 1.0 if modality == "text" else _scale(snapshot))
        return self._known[modality]

    def __iter__(self) -> Iterator[str]:
        return iter(self._snapshots)

    def __len__(self) -> int:
        return len(self._snapshots)

    def __contains__(self, modality: object) -> bool:
        return modality in self._snapshots  # Mapping's own would look it up


def _scale(snapshot: Snapshot) -> float:
    from feature_cache.encoders.languagebind_towers import logit_scale

    return math.exp(logit_scale(snapshot))
