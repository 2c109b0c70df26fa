"""The groups of latent directions: core, topics, clutter; how strong each is, and who sees a topic how."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Float, Float32

from feature_cache.synthetic.shapes import SHAPES

NARROWEST = 32
"""The least width that leaves every topic a plane to turn in, and some directions for core and clutter."""
PHASES = {"text": 0, "vision": 1, "video": 1, "audio": 2, "thermal": 2, "depth": 2, "tactile": 2}
"""Thirds of a circle by which a modality sees foreign topics turned; the two of every pair in the stream differ."""


@dataclass(frozen=True)
class Constants:
    """The numbers of the model; shares are of the energy that a feature has before it is stretched to its norm.

    Attributes:
        mean: share of the modality's mean, which makes the cone in which its features lie.
        core: share of what all modalities of all datasets see.
        own: share of the dataset's own topic.
        foreign: share of all topics of earlier datasets together.
        noise: share of white noise. What is left of 1 is clutter.
        fidelity: the part of core and topics that a modality has in common with the others of its row.
        class_share: the part of what modalities have in common that comes from the row's class.
        angle: between a modality's map and the common one, in radians.
        decay: within a group, the variance along the k-th direction falls as `k ** -decay`.
        shortest: embeddings averaged over clips have norms between so much of their scale and all of it.
    """

    mean: float = 0.2
    core: float = 0.08
    own: float = 0.3
    foreign: float = 0.3
    noise: float = 0.01
    fidelity: float = 0.6
    class_share: float = 0.7
    angle: float = 0.5
    decay: float = 1.5
    shortest: float = 0.7


DEFAULTS = Constants()


def groups(width: int) -> dict[str, slice]:
    """The latent directions of every group: "core", each dataset's name, "clutter"; topics have an even number.

    >>> groups(32)["core"], groups(32)["ucf101"], groups(32)["clutter"]
    (slice(0, 8, None), slice(8, 10, None), slice(22, 32, None))
    """
    names = ["core", *SHAPES, "clutter"]
    ends = [0, *np.cumsum([width // 4, *[2 * (width // 32)] * len(SHAPES)]).tolist(), width]
    return {name: slice(start, end) for name, (start, end) in zip(names, pairwise(ends), strict=True)}


def amplitudes(width: int, dataset: str, constants: Constants) -> Float32[np.ndarray, " width"]:
    """Standard deviation of a dataset's latents along each direction; 0 for topics of later datasets."""
    earlier = list(SHAPES)[: list(SHAPES).index(dataset)]
    shares = {"core": constants.core, dataset: constants.own}
    shares |= {name: constants.foreign / len(earlier) for name in earlier}
    shares["clutter"] = 1 - constants.mean - constants.noise - sum(shares.values())
    variances = np.zeros(width)
    for name, share in shares.items():
        directions = groups(width)[name]
        falling = np.arange(1, directions.stop - directions.start + 1) ** -constants.decay
        variances[directions] = share * falling / falling.sum()
    return np.sqrt(variances).astype(np.float32)


def seen_by(modality: str, dataset: str, shared: Float[np.ndarray, "n width"]) -> Float[np.ndarray, "n width"]:
    """What a modality sees of a row's shared latents: foreign topics turned, plane by plane, by its phase."""
    angle = 2 * np.pi / 3 * PHASES[modality]
    cos, sin = shared.dtype.type(np.cos(angle)), shared.dtype.type(np.sin(angle))
    seen = shared.copy()
    for name in SHAPES.keys() - {dataset}:
        topic = groups(shared.shape[1])[name]
        x, y = shared[:, topic][:, ::2], shared[:, topic][:, 1::2]
        seen[:, topic][:, ::2], seen[:, topic][:, 1::2] = cos * x - sin * y, sin * x + cos * y
    return seen
