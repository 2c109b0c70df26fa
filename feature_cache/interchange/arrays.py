"""Arrays in NumPy's files, read without pickle, and the file of the classes that npz, parquet and webdataset share.

`classes.npz` has `names` and `texts` (strings, [n]) and `features` [n, dim], the embeddings of the texts; with
`open_names`, `open_texts` and `open_features` for the open classes. Labels count its rows. Absent without classes.
"""

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from feature_cache.errors import CacheError
from feature_cache.interchange.base import Array, appearing
from feature_cache.manifest import ClassLabel
from feature_cache.reader import FeatureCache

CLASSES = "classes.npz"
PREFIXES = {"classes": "", "open_classes": "open_"}
"""Per array of `classes.safetensors` how its three arrays in `classes.npz` begin."""
T = TypeVar("T")


def load_npz(path: Path) -> dict[str, Array]:
    """All arrays of an .npz file. Raises `CacheError` for what is none, or has Python objects in it."""
    return reading(path, lambda: dict(np.load(path, allow_pickle=False)), "an .npz file of plain arrays")


def reading(path: Path, read: Callable[[], T], expected: str) -> T:
    """`read()`, with a `CacheError` that names the file for whatever NumPy raises."""
    try:
        return read()
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise CacheError(
            f"{path} should be {expected}, but cannot be read as one: {type(error).__name__}: {error}. Write it again, "
            "with strings as numpy.str_ rather than as objects."
        ) from None


def save_npz(path: Path, arrays: Mapping[str, Array]) -> None:
    """Writes an .npz file, whole or not at all."""
    with appearing(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, allow_pickle=False, **dict[str, Any](arrays))


def strings(values: object) -> Array:
    """An array of strings; of none, too."""
    return np.asarray(values, dtype=np.str_)


def read_classes(folder: Path) -> tuple[dict[str, tuple[ClassLabel, ...]], dict[str, Array]]:
    """Classes, and their texts' embeddings, by `classes` and `open_classes`; empty without `classes.npz`."""
    path = folder / CLASSES
    if not path.is_file():
        return {}, {}
    arrays = load_npz(path)
    known = {f"{prefix}{part}" for prefix in PREFIXES.values() for part in ("names", "texts", "features")}
    _check_names(path, arrays, known)
    labels, features = {}, {}
    for kind, prefix in PREFIXES.items():
        parts = [arrays.get(f"{prefix}{part}") for part in ("names", "texts", "features")]
        names, texts, values = parts
        if names is None or texts is None or values is None:
            if any(part is not None for part in parts):
                raise CacheError(f"{path}: {prefix}names, {prefix}texts and {prefix}features belong together.")
            continue
        if not names.ndim == texts.ndim == 1 or values.ndim != 2 or not len(names) == len(texts) == len(values):
            shapes = ", ".join(str(list(part.shape)) for part in (names, texts, values))
            raise CacheError(f"{path}: names, texts and features should be [n], [n] and [n, dim], but are {shapes}.")
        labels[kind] = tuple(ClassLabel(str(name), str(text)) for name, text in zip(names, texts, strict=True))
        features[kind] = values
    return labels, features


def write_classes(cache: FeatureCache, folder: Path) -> None:
    """Writes `classes.npz` if the cache has classes; removes an older one if not."""
    found = {"classes": cache.class_features, "open_classes": cache.open_class_features}
    arrays: dict[str, Array] = {}
    for kind, labels in cache.manifest.label_sets.items():
        prefix, features = PREFIXES[kind], found[kind]
        assert features is not None  # a whole cache has the embeddings of all its classes
        arrays[f"{prefix}names"] = strings([label.name for label in labels])
        arrays[f"{prefix}texts"] = strings([label.text for label in labels])
        arrays[f"{prefix}features"] = features
    if arrays:
        save_npz(folder / CLASSES, arrays)
    else:
        (folder / CLASSES).unlink(missing_ok=True)


def _check_names(path: Path, arrays: Mapping[str, Any], known: set[str]) -> None:
    strange = sorted(set(arrays) - known)
    if strange:
        raise CacheError(f"{path}: there should be no array {strange[0]!r}, only {', '.join(sorted(known))}.")
