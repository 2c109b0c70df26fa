"""Writes the cache of one synthetic dataset shard by shard; what is there and right stays."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from feature_cache.errors import UserError
from feature_cache.manifest import SPLITS, Manifest, MediaSource, ModalitySpec, why_unusable
from feature_cache.synthetic.factors import NARROWEST
from feature_cache.synthetic.rows import SyntheticDataset
from feature_cache.synthetic.shapes import SCALES, Shape
from feature_cache.synthetic.world import MODEL_VERSION, World, fingerprint
from feature_cache.writer import CacheWriter

ENCODER = "synthetic"
SOURCES = (
    MediaSource(
        "feature_cache.synthetic (no media: generated)", MODEL_VERSION, "MIT", "https://arxiv.org/abs/2503.14963"
    ),
)


@dataclass(frozen=True)
class Options:
    """What to make.

    Attributes:
        factor: times the true number of training rows; validation follows.
        test_factor: times the true number of test rows.
        width: of all features.
        seed: of everything random.
        dtype: "float16" or "float32", of the stored features.
        shard_size: rows of a shard, the unit of resuming; changes no feature.

    Raises `UserError`, naming the argument, for a value out of range.
    """

    factor: float = 1.0
    test_factor: float = 1.0
    width: int = 1024
    seed: int = 0
    dtype: str = "float16"
    shard_size: int = 4096

    def __post_init__(self) -> None:
        for name in ("factor", "test_factor"):
            if not 0 < getattr(self, name) < math.inf:
                raise UserError(
                    f"{name} should be a number greater than 0, such as 0.05, but is {getattr(self, name)}."
                )
        for name, least in (("width", NARROWEST), ("seed", 0), ("shard_size", 1)):
            if getattr(self, name) < least:
                raise UserError(f"{name} should be at least {least}, but is {getattr(self, name)}.")


def describe(shape: Shape, options: Options) -> Manifest:
    """The manifest of a dataset's cache that has no rows yet; with it, all of the generator's parameters."""
    return Manifest(
        encoder=ENCODER,
        weights_sha256=fingerprint(options.width, options.seed),
        preprocessing_version=f"model {MODEL_VERSION}, width {options.width}, seed {options.seed}",
        dataset=shape.name,
        dataset_version=f"factor {options.factor!r}, test_factor {options.test_factor!r}",
        dtype=options.dtype,
        synthetic=True,
        sources=SOURCES,
        modalities={m: ModalitySpec(options.width, SCALES[m]) for m in shape.modalities},
        classes=shape.labels(),
    )


def why_outdated(folder: Path, shape: Shape, options: Options) -> str | None:
    """Why the cache in `folder` has to be made (again); None if it is up to date. Reads its manifest alone."""
    if reason := why_unusable(folder):
        return reason
    found = Manifest.load(folder)
    wanted = describe(shape, options)
    for name in ("preprocessing_version", "dataset_version", "dtype"):
        if getattr(found, name) != getattr(wanted, name):
            return f"{name} was {getattr(found, name)!r} and is now {getattr(wanted, name)!r}"
    same = replace(found, splits={}, class_file=None, failures_file=None) == wanted
    return None if same else "the generator has changed"


def write_cache(
    folder: Path,
    shape: Shape,
    world: World,
    options: Options,
    progress: Callable[[int], None] = lambda count: None,
) -> None:
    """Makes the cache in `folder`, reusing the shards that an earlier run finished.

    `progress(n)` is called whenever n more rows are done. Never holds more than a shard's features.
    """
    dataset = SyntheticDataset(shape, world)
    writer = CacheWriter(folder, describe(shape, options))
    counts = shape.counts(options.factor, options.test_factor)
    for split in SPLITS:
        for index, start in enumerate(range(0, counts[split], options.shard_size)):
            stop = min(start + options.shard_size, counts[split])
            rows = dataset.rows(split, start, stop)
            if not writer.reuse_shard(split, index, rows):
                writer.write_shard(split, index, rows, dataset.features(split, start, stop))
            progress(len(rows))
    if dataset.class_features is not None:
        writer.write_classes(dataset.class_features)
    writer.finish()
