"""The rows of one dataset: ids, captions, labels and features, any range of them at a time."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float32, Int

from feature_cache.shards import Rows
from feature_cache.synthetic.factors import amplitudes, groups, seen_by
from feature_cache.synthetic.shapes import AVERAGED, Shape
from feature_cache.synthetic.world import World, source

BLOCK = 256
"""Rows are always made in whole blocks of so many: a product of matrices of another size may round differently."""

Features = Mapping[str, Float32[np.ndarray, "n width"]]


class SyntheticDataset:
    """A dataset of a world.

    Attributes:
        shape: its modalities, classes and counts.
        class_features: `[n_classes, width]`, of the class texts; None without text in the dataset or classes.
    """

    def __init__(self, shape: Shape, world: World) -> None:
        self.shape = shape
        self._world = world
        self._amplitudes = amplitudes(world.width, shape.name, world.constants)
        size = (shape.classes, world.width)
        self._prototypes = source(world.seed, shape.name, "prototypes").standard_normal(size, np.float32)
        self.class_features = self._class_features() if shape.classes else None

    def rows(self, split: str, start: int, stop: int) -> Rows:
        """Ids, captions and labels of the rows from `start` to before `stop`. Classes take turns."""
        ids = [f"{self.shape.name}_{split}_{row:06d}" for row in range(start, stop)]
        texts, labels = [label.text for label in self.shape.labels()], self._labels(start, stop).tolist()
        match self.shape.caption:
            case "class":
                captions = [texts[label] for label in labels]
            case "own":
                captions = [f"synthetic caption of {name}" for name in ids]
            case "none":
                captions = [""] * len(ids)
        return Rows(ids, captions, labels)

    def features(self, split: str, start: int, stop: int) -> Features:
        """Features of the same rows, in every modality."""
        first, last = start // BLOCK, -(-stop // BLOCK)
        blocks = [self._block(split, index) for index in range(first, last)]
        wanted = slice(start - first * BLOCK, stop - first * BLOCK)
        return {m: np.concatenate([block[m] for block in blocks])[wanted] for m in self.shape.modalities}

    def _labels(self, start: int, stop: int) -> Int[np.ndarray, " n"]:
        rows = np.arange(start, stop)
        return rows % self.shape.classes if self.shape.classes else np.full_like(rows, -1)

    def _block(self, split: str, index: int) -> Features:
        labels = self._labels(index * BLOCK, (index + 1) * BLOCK)
        shared = self._shared(labels, source(self._world.seed, self.shape.name, split, index))
        features = {}
        for modality in self.shape.modalities:
            if modality == "text" and self.class_features is not None:
                features[modality] = self.class_features[labels]
            else:
                random = source(self._world.seed, self.shape.name, split, index, modality)
                features[modality] = self._seen(modality, shared, random)
        return features

    def _shared(self, labels: Int[np.ndarray, " n"], random: np.random.Generator) -> Float32[np.ndarray, "n width"]:
        """What the modalities of each row have in common, of unit variance."""
        own = random.standard_normal((len(labels), self._world.width), np.float32)
        if not self.shape.classes:
            return own
        return _blend(self._world.constants.class_share, self._prototypes[labels], own)

    def _seen(
        self, modality: str, shared: Float32[np.ndarray, "n width"], random: np.random.Generator
    ) -> Float32[np.ndarray, "n width"]:
        """Features of a modality that adds its own to what the rows have in common."""
        constants, (n, width) = self._world.constants, shared.shape
        own, noise = random.standard_normal((2, n, width), np.float32)
        latents = _blend(constants.fidelity, seen_by(modality, self.shape.name, shared), own)
        latents[:, groups(width)["clutter"]] = own[:, groups(width)["clutter"]]
        norms = random.uniform(constants.shortest if modality in AVERAGED else 1, 1, (n, 1)).astype(np.float32)
        return self._world.embed(modality, latents * self._amplitudes, noise, norms)

    def _class_features(self) -> Float32[np.ndarray, "n_classes width"]:
        """A class text says what its items have in common, and nothing of its own but clutter."""
        random = source(self._world.seed, self.shape.name, "class texts")
        noise = random.standard_normal(self._prototypes.shape, np.float32)
        latents = seen_by("text", self.shape.name, self._prototypes)  # its clutter is no other modality's
        norms = np.ones((len(latents), 1), np.float32)
        return self._world.embed("text", latents * self._amplitudes, noise, norms)


def _blend(
    part: float, first: Float32[np.ndarray, "n width"], second: Float32[np.ndarray, "n width"]
) -> Float32[np.ndarray, "n width"]:
    """A mixture with `part` of its variance from the first, of unit variance if both are."""
    return np.float32(np.sqrt(part)) * first + np.float32(np.sqrt(1 - part)) * second
