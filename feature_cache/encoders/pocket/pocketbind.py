"""The encoder "pocketbind": small pretrained networks bound by language, whose weights come inside packages.

    text    MiniLM                                                        384 wide, the common space
    vision  EfficientNet-Lite0, probabilities of 1000 ImageNet classes    -> ConSE
    video   the same, averaged over the frames                            -> ConSE
    depth   the same, on the depth map shown as a grey picture            -> ConSE
    audio   YAMNet, scores of 521 AudioSet classes                        -> ConSE
    speech  Whisper tiny.en's encoder                                     384 wide, not bound
    imu     means and cross-spectra of the sensor's channels              384 wide, not bound

ConSE replaces a classifier's output by the mean of MiniLM's embeddings of its most probable classes' names. The bound
modalities thus share one space in which they are aligned with text, and through text with each other, zero-shot. Speech
and imu are as wide but lie anywhere: what binds them is training.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import ClassVar

import numpy as np
from jaxtyping import Float, Float32

from feature_cache.encoders.pocket import efficientnet_lite, minilm, yamnet
from feature_cache.encoders.pocket.conse import conse
from feature_cache.encoders.pocket.pocket_encoder import MINILM, SCALE, Array, Parts, PocketEncoder, mean_over_frames
from feature_cache.manifest import ModalitySpec


class PocketBind(PocketEncoder):
    """See the module's docstring."""

    name: ClassVar[str] = "pocketbind"
    preprocessing_version: ClassVar[str] = "2"
    modalities: Mapping[str, ModalitySpec] = MappingProxyType(
        {
            modality: ModalitySpec(dim=minilm.DIM, scale=SCALE)
            for modality in ("vision", "text", "audio", "depth", "imu", "video", "speech")
        }
    )
    parts: ClassVar[Parts] = Parts(MINILM, efficientnet_lite.LITE0)

    def sounds(self, batch: Sequence[Array]) -> Float[np.ndarray, "n 384"]:
        """ConSE of the scores of AudioSet's classes."""
        return conse(self._yamnet.scores(batch), self._audioset_names)

    def pictures(self, clips: Sequence[Array]) -> Float[np.ndarray, "n 384"]:
        """ConSE of the probabilities of ImageNet's classes, averaged over each clip's frames."""
        return conse(mean_over_frames(self._efficientnet.probabilities, clips), self._imagenet_names)

    @cached_property
    def _imagenet_names(self) -> Float32[np.ndarray, "1000 384"]:
        return self._embed_names(efficientnet_lite.class_names())

    @cached_property
    def _audioset_names(self) -> Float32[np.ndarray, "521 384"]:
        return self._embed_names(yamnet.class_names())

    def _embed_names(self, names: Sequence[str]) -> Float32[np.ndarray, "classes 384"]:
        tokens = [self.parts.sentences.tokenize(name) for name in names]
        return np.concatenate([self._sentences.embed(tokens[at : at + 64]) for at in range(0, len(tokens), 64)])
