"""Caches of random features, for tests of what reads caches; several shards, repeated and odd captions."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from feature_cache import CacheWriter, ClassLabel, FeatureCache, Manifest, MediaSource, ModalitySpec, Rows, open_cache
from feature_cache.shard_record import Failure

CAPTIONS = ("a bird", "", "🐦🔥 née", "שלום עולם")
WIDTHS = {"vision": 6, "text": 5, "audio": 4}


def write_cache(
    folder: Path,
    widths: Mapping[str, int] = WIDTHS,
    counts: Mapping[str, int] = {"train": 7, "validation": 3, "test": 4},
    dtype: str = "float32",
    encoder: str = "mine",
    dataset: str = "birds",
    classes: int = 3,
    open_classes: int = 2,
    shard_size: int = 3,
    failures: int = 0,
    seed: int = 0,
) -> FeatureCache:
    """A cache with labels from -1 on; the first `failures` items of train have failed."""
    rng = np.random.default_rng(seed)
    manifest = Manifest(
        encoder=encoder,
        weights_sha256="ab" * 32,
        preprocessing_version="1",
        dataset=dataset,
        dataset_version="1",
        dtype=dtype,
        synthetic=True,
        sources=(MediaSource("random numbers", "1", "CC0-1.0", "https://numpy.org"),),
        modalities={modality: ModalitySpec(width, 2.0) for modality, width in widths.items()},
        classes=tuple(ClassLabel(f"class {i}", f"a thing of class {i}") for i in range(classes)),
        open_classes=tuple(ClassLabel(f"kind {i}", f"some kind {i}") for i in range(open_classes)),
    )
    writer = CacheWriter(folder, manifest)
    for split, count in counts.items():
        for index, start in enumerate(range(0, count, shard_size)):
            numbers = range(start, min(start + shard_size, count))
            rows = Rows(
                [f"{split}/{i}.jpg" for i in numbers],
                [CAPTIONS[i % len(CAPTIONS)] for i in numbers],
                [i % (classes + 1) - 1 for i in numbers],
                [i % (open_classes + 1) - 1 for i in numbers],
            )
            features = {m: rng.normal(size=(len(numbers), width)).astype(np.float32) for m, width in widths.items()}
            failed = [Failure(split, f"broken{i}", "vision", "OSError: no") for i in range(failures)]
            writer.write_shard(split, index, rows, features, failed if (split, index) == ("train", 0) else ())
    sets = {"classes": classes, "open_classes": open_classes}
    texts = {name: rng.normal(size=(count, widths["text"])).astype(np.float32) for name, count in sets.items() if count}
    if texts:
        writer.write_classes(**texts)
    writer.finish()
    return open_cache(folder)


def assert_equal_content(left: FeatureCache, right: FeatureCache, dtype: str | None = None) -> None:
    """Rows, labels, classes and, bit for bit, features."""
    assert list(left.modalities) == list(right.modalities)
    assert left.manifest.label_sets == right.manifest.label_sets
    for split in ("train", "validation", "test"):
        assert left.ids(split) == right.ids(split)
        assert left.captions(split) == right.captions(split)
        assert np.array_equal(left.labels(split), right.labels(split))
        assert np.array_equal(left.open_labels(split), right.open_labels(split))
        for modality in left.modalities:
            one, other = (np.asarray(cache.features(split, modality)) for cache in (left, right))
            assert one.dtype == other.dtype == (dtype or one.dtype)
            assert one.tobytes() == other.tobytes()
    for name in ("class_features", "open_class_features"):
        one, other = getattr(left, name), getattr(right, name)
        assert (one is None) == (other is None)
        assert one is None or one.tobytes() == other.tobytes()
