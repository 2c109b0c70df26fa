"""What the seed fixes once and for all: each modality's map into feature space and its mean."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from feature_cache.synthetic.factors import DEFAULTS, Constants
from feature_cache.synthetic.shapes import SCALES

MODEL_VERSION = "1"
"""Changes whenever a feature does for another reason than a constant, the width or the seed."""


@dataclass(frozen=True, eq=False)
class World:
    """Maps and means of all modalities, in a space of `width` dimensions; `make_world` makes it.

    Attributes:
        width, seed, constants: what everything else follows from.
        maps: per modality `[width, width]`, latents to features.
        means: per modality `[width]`.
    """

    width: int
    seed: int
    constants: Constants
    maps: Mapping[str, Float32[np.ndarray, "width width"]]
    means: Mapping[str, Float32[np.ndarray, " width"]]

    def embed(
        self,
        modality: str,
        latents: Float32[np.ndarray, "n width"],
        noise: Float32[np.ndarray, "n width"],
        norms: Float32[np.ndarray, "n 1"],
    ) -> Float32[np.ndarray, "n width"]:
        """Features of latents that have their amplitudes; `noise` is standard normal, `norms` are in units of scale."""
        white = np.float32(np.sqrt(self.constants.noise / self.width)) * noise
        features: Float32[np.ndarray, "n width"] = self.means[modality] + latents @ self.maps[modality] + white
        features *= np.float32(SCALES[modality]) * norms / np.linalg.norm(features, axis=1, keepdims=True)
        return features


def make_world(width: int, seed: int, constants: Constants = DEFAULTS) -> World:
    """The world of a seed."""
    common = _rotation(seed, "common", width)
    toward, away = np.float32(np.cos(constants.angle)), np.float32(np.sin(constants.angle))
    maps = {m: toward * common + away * _rotation(seed, m, width) for m in SCALES}
    means = {m: source(seed, "mean", m).standard_normal(width, np.float32) for m in SCALES}
    length = np.float32(np.sqrt(constants.mean))
    return World(width, seed, constants, maps, {m: length * mean / np.linalg.norm(mean) for m, mean in means.items()})


def fingerprint(width: int, seed: int, constants: Constants = DEFAULTS) -> str:
    """Stands for maps, means and prototypes, which all follow from what it is the SHA-256 of."""
    parameters = {"version": MODEL_VERSION, "width": width, "seed": seed, **dataclasses.asdict(constants)}
    return hashlib.sha256(json.dumps(parameters, sort_keys=True).encode()).hexdigest()


def source(*key: str | int) -> np.random.Generator:
    """A source of random numbers of its own for every key."""
    digest = hashlib.sha256(json.dumps(key).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest, "big"))


def _rotation(seed: int, name: str, width: int) -> Float32[np.ndarray, "width width"]:
    rotation: Float32[np.ndarray, "width width"]
    rotation, _ = np.linalg.qr(source(seed, "rotation", name).standard_normal((width, width), np.float32))
    return rotation
