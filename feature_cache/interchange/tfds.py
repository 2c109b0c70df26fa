"""A dataset for tensorflow-datasets, in ArrayRecord files, which it reads without TensorFlow.

    import tensorflow_datasets as tfds
    source = tfds.data_source("esc50_imagebind", data_dir="FOLDER", split="test")
    source[0]  # {"id": b"…", "caption": b"…", "label": 3, "open_label": -1, "text": float32 [dim], …}

Its name is DATASET_ENCODER, its splits those of the cache that have rows, in the order of the cache. Labels are -1
where an item has no class. The texts of the classes are no items: they are in `classes.npz` (see `arrays.py`) in the
folder FOLDER/DATASET_ENCODER/1.0.0.
"""

import contextlib
import io
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from feature_cache.interchange.arrays import write_classes
from feature_cache.interchange.base import blocks_of, filled_splits
from feature_cache.manifest import ClassLabel
from feature_cache.reader import FeatureCache

VERSION = "1.0.0"


def write(cache: FeatureCache, folder: Path) -> list[str]:
    """Writes a cache as such a dataset, float32; one that is there already is replaced."""
    builder = _builder(cache, folder)
    target = Path(builder.data_path)
    shutil.rmtree(target, ignore_errors=True)  # else it is taken for what is to be made
    config = tfds.download.DownloadConfig(try_download_gcs=False, compute_stats=tfds.download.ComputeStatsMode.SKIP)
    with contextlib.redirect_stdout(io.StringIO()):  # it announces a download
        tfds.disable_progress_bar()
        builder.download_and_prepare(download_dir=str(target.parent / "downloads"), download_config=config)
    shutil.rmtree(target.parent / "downloads", ignore_errors=True)  # nothing was downloaded
    write_classes(cache, target)
    return [f"In Python: tfds.data_source({builder.name!r}, data_dir={str(folder)!r}, split=…)."]


def dataset_name(cache: FeatureCache) -> str:
    """What tensorflow-datasets calls it: lower case, digits and underscores."""
    name = f"{cache.manifest.dataset}_{cache.manifest.encoder}".lower()
    name = re.sub(r"[^a-z0-9]+", "_", name).strip("_")
    return name if name[:1].isalpha() else f"features_{name}"


def _builder(cache: FeatureCache, folder: Path) -> Any:
    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[misc,call-arg]
        VERSION = tfds.core.Version(VERSION)
        name = dataset_name(cache)
        code_path = None  # no module describes this dataset; looking for one takes a package that is not declared

        def _info(self) -> Any:
            # Else it sorts by a hash of the keys.
            return tfds.core.DatasetInfo(
                builder=self, features=_features(cache), description=_description(cache), disable_shuffling=True
            )

        def _split_generators(self, manager: Any) -> dict[str, Any]:
            del manager
            return {split: _examples(cache, split) for split in filled_splits(cache)}

        def _generate_examples(self) -> None: ...

    return Builder(data_dir=str(folder), file_format="array_record")


def _features(cache: FeatureCache) -> Any:
    return tfds.features.FeaturesDict(
        {
            "id": tfds.features.Text(),
            "caption": tfds.features.Text(),
            "label": _label(cache.manifest.classes),
            "open_label": _label(cache.manifest.open_classes),
            **{m: tfds.features.Tensor(shape=(spec.dim,), dtype=np.float32) for m, spec in cache.modalities.items()},
        }
    )


def _label(classes: tuple[ClassLabel, ...]) -> Any:
    """With the classes' names where they can be told apart, line by line."""
    names = [label.name for label in classes]
    if names and len(set(names)) == len(names) and all(name.strip() and len(name.splitlines()) == 1 for name in names):
        return tfds.features.ClassLabel(names=names)
    return tfds.features.Scalar(dtype=np.int64)


def _description(cache: FeatureCache) -> str:
    manifest = cache.manifest
    sources = "; ".join(f"{source.name} {source.version}: {source.license}" for source in manifest.sources)
    return f"Features of {manifest.dataset} by the encoder {manifest.encoder}. Media and licences: {sources}."


def _examples(cache: FeatureCache, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
    number = 0
    for rows, features in blocks_of(cache, split):
        floats = {modality: np.asarray(values, np.float32) for modality, values in features.items()}
        columns = zip(rows.ids, rows.captions, rows.labels, rows.open_labels, strict=True)
        for row, (item, caption, label, opened) in enumerate(columns):
            texts = {"id": item, "caption": caption, "label": label, "open_label": opened}
            yield number, {**texts, **{modality: values[row] for modality, values in floats.items()}}
            number += 1
