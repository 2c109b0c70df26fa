"""The encoder "pocketraw": what pocketbind's networks see before anything binds them, of unequal widths.

    text                  MiniLM                                          384 wide
    vision, video, depth  EfficientNet-Lite0 before its classifier       1280 wide, video averaged over the frames
    audio                 YAMNet before its classifier                   1024 wide
    speech, imu           as in pocketbind                                384 wide

Nothing is aligned zero-shot, and heads on it are rectangular. Features before a classifier are averages of activations
that are never negative, so they have a mean in common: the cosine of two random items is 0.42 for emoji, 0.32 for
furniture and 0.39 for its depth maps. It is left in: taking it off would need statistics of a dataset.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from feature_cache.encoders.pocket import efficientnet_lite, minilm, motion_spectra, whisper, yamnet
from feature_cache.encoders.pocket.pocket_encoder import MINILM, SCALE, Array, Parts, PocketEncoder, mean_over_frames
from feature_cache.manifest import ModalitySpec

_WIDTHS = {
    "vision": efficientnet_lite.POOLED,
    "text": minilm.DIM,
    "audio": yamnet.POOLED,
    "depth": efficientnet_lite.POOLED,
    "imu": motion_spectra.DIM,
    "video": efficientnet_lite.POOLED,
    "speech": whisper.DIM,
}


class PocketRaw(PocketEncoder):
    """See the module's docstring."""

    name: ClassVar[str] = "pocketraw"
    preprocessing_version: ClassVar[str] = "1"
    modalities: Mapping[str, ModalitySpec] = MappingProxyType(
        {modality: ModalitySpec(dim=width, scale=SCALE) for modality, width in _WIDTHS.items()}
    )
    parts: ClassVar[Parts] = Parts(MINILM, efficientnet_lite.LITE0)

    def sounds(self, batch: Sequence[Array]) -> Float[np.ndarray, "n 1024"]:
        """YAMNet's pooled activations, averaged over each clip's patches."""
        return self._yamnet.pooled(batch)

    def pictures(self, clips: Sequence[Array]) -> Float[np.ndarray, "n 1280"]:
        """EfficientNet-Lite0's pooled activations, averaged over each clip's frames."""
        return mean_over_frames(self._efficientnet.pooled, clips)
