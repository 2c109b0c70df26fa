"""Small caches for tests: aligned rows of a few concepts, seen through another random map in every modality."""

from pathlib import Path

import numpy as np

from feature_cache import CacheWriter, ClassLabel, Manifest, MediaSource, ModalitySpec, Rows
from feature_cache.manifest import MODALITY_ORDER

WIDTHS = {"vision": 12, "text": 12, "audio": 12, "depth": 12}
DATASETS = {
    "birds": (("vision", "text"), 40),
    "notes": (("text", "audio"), 56),
    "rooms": (("vision", "text", "depth"), 24),
}
STEPS = (
    ("birds", ("text", "vision"), ("accuracy", "recall")),
    ("notes", ("text", "audio"), ("accuracy", "recall")),
    ("rooms", ("depth", "text"), ("recall",)),
    ("rooms", ("vision", "depth"), ("recall",)),
)
CLASSES = 4


def write_tiny_caches(
    cache_dir: Path,
    widths: dict[str, int] = WIDTHS,
    seed: int = 0,
    captioned: bool = True,
    splits: dict[str, int] | None = None,
) -> None:
    """Caches of `DATASETS` below `cache_dir`; every caption occurs twice."""
    rng = np.random.default_rng(seed)
    for dataset, (modalities, rows) in DATASETS.items():
        ordered = sorted(modalities, key=MODALITY_ORDER.index)
        maps = {m: rng.normal(size=(6, widths[m])) for m in ordered}
        writer = CacheWriter(
            cache_dir / dataset,
            Manifest(
                encoder="tiny",
                weights_sha256="0" * 64,
                preprocessing_version="1",
                dataset=dataset,
                dataset_version="1",
                dtype="float32",
                synthetic=True,
                sources=(MediaSource("random numbers", "1", "CC0-1.0", "https://numpy.org"),),
                modalities={m: ModalitySpec(widths[m], 1.0) for m in ordered},
                classes=tuple(ClassLabel(f"class {i}", f"a thing of class {i}") for i in range(CLASSES)),
            ),
        )
        concepts = rng.normal(size=(CLASSES, 6))
        for split, count in (splits or {"train": rows, "validation": 10, "test": 16}).items():
            labels = np.arange(count) % CLASSES
            items = concepts[labels] + 0.7 * rng.normal(size=(count, 6))
            features = {m: items @ maps[m] + 0.3 * rng.normal(size=(count, widths[m])) for m in ordered}
            captions = [f"{dataset} {split} {i // 2}" if captioned else "" for i in range(count)]
            writer.write_shard(split, 0, Rows([f"{split}{i}" for i in range(count)], captions, labels), features)
        writer.write_classes(concepts @ maps["text"])
        writer.finish()
