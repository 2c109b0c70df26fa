"""One .npz file per split, `train.npz`, `validation.npz`, `test.npz`, and `classes.npz`: see `arrays.py`.

A split's file has an array [n, dim] per modality, by the modality's name; `ids`, strings [n]; and, where there are any,
`captions`, strings [n], `labels` and `open_labels`, whole numbers [n] with -1 for none. An .npz is read array by array,
so that a split has to fit into memory. Nothing is unpickled.
"""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np

from feature_cache.errors import CacheError
from feature_cache.interchange.arrays import CLASSES, load_npz, read_classes, save_npz, strings, write_classes
from feature_cache.interchange.base import (
    LEFT_OUT,
    Array,
    Block,
    Incoming,
    Request,
    blocks_of,
    cut,
    existing_folder,
    filled_splits,
    in_order,
    remove_earlier,
)
from feature_cache.manifest import MODALITY_ORDER, SPLITS
from feature_cache.reader import FeatureCache
from feature_cache.registry import check_name
from feature_cache.shards import Rows

COLUMNS = ("ids", "captions", "labels", "open_labels")


def read(request: Request) -> Incoming:
    """Reads a folder of .npz files. Raises `CacheError` for what is not as the module says."""
    folder = existing_folder(request.path)
    paths = {split: folder / f"{split}.npz" for split in SPLITS if (folder / f"{split}.npz").is_file()}
    if not paths:
        raise CacheError(f"{folder} has none of train.npz, validation.npz and test.npz. Check --path.")
    load = lru_cache(maxsize=1)(lambda split: load_npz(paths[split]))
    first = next(iter(paths))
    arrays = load(first)
    modalities = request.modalities or in_order(set(arrays) - set(COLUMNS), str(paths[first]))
    label_sets, class_features = read_classes(folder)

    def blocks(split: str, size: int) -> Iterator[Block]:
        if split in paths:
            yield from cut(*_checked(paths[split], load(split), modalities), size)

    return Incoming(
        widths={modality: _width(paths[first], arrays, modality) for modality in modalities},
        blocks=blocks,
        files=(*paths.values(), *((folder / CLASSES,) if class_features else ())),
        label_sets=label_sets,
        class_features=class_features,
    )


def write(cache: FeatureCache, folder: Path) -> list[str]:
    """Writes a cache as .npz files, in the dtype of the cache."""
    folder.mkdir(parents=True, exist_ok=True)
    remove_earlier(folder, *(f"{split}.npz" for split in SPLITS))
    for split in filled_splits(cache):
        rows = [block[0] for block in blocks_of(cache, split)]
        columns = {name: [value for part in rows for value in getattr(part, name)] for name in COLUMNS}
        arrays = {
            "ids": strings(columns["ids"]),
            "captions": strings(columns["captions"]),
            "labels": np.asarray(columns["labels"], np.int32),
            "open_labels": np.asarray(columns["open_labels"], np.int32),
            **{modality: cache.features(split, modality) for modality in cache.modalities},
        }
        save_npz(folder / f"{split}.npz", arrays)
    write_classes(cache, folder)
    return [LEFT_OUT]


def _checked(path: Path, arrays: Mapping[str, Array], modalities: tuple[str, ...]) -> Block:
    """The rows and features of a split. Raises `CacheError`, naming the array."""
    for name in arrays:
        check_name([*COLUMNS, *MODALITY_ORDER], f"array in {path}", name)
    absent = [name for name in ("ids", *modalities) if name not in arrays]
    if absent:
        raise CacheError(f"{path} should have the array {absent[0]!r}, as other splits have, but has none.")
    surplus = sorted(set(arrays) - set(COLUMNS) - set(modalities))
    if surplus:
        raise CacheError(f"{path} has features of {surplus[0]}, which the first split or --modalities lacks.")
    n = len(arrays["ids"]) if arrays["ids"].ndim else 0
    for name, kinds in (("ids", "U"), ("captions", "U"), ("labels", "iu"), ("open_labels", "iu")):
        found = arrays.get(name)
        if found is not None and (found.shape != (n,) or found.dtype.kind not in kinds):
            what = "strings" if kinds == "U" else "whole numbers"
            raise CacheError(f"{path}: {name!r} should be {n} {what}, but is {list(found.shape)} of {found.dtype}.")
    rows = Rows(
        [str(item) for item in arrays["ids"]],
        [str(caption) for caption in arrays.get("captions", [""] * n)],
        arrays.get("labels", np.full(n, -1)),
        arrays.get("open_labels"),
    )
    for modality in modalities:
        if arrays[modality].ndim != 2 or len(arrays[modality]) != n or arrays[modality].dtype.kind != "f":
            was = f"{list(arrays[modality].shape)} of {arrays[modality].dtype}"
            raise CacheError(f"{path}: {modality!r} should be [{n}, dim] floating-point numbers, but is {was}.")
    return rows, {modality: arrays[modality] for modality in modalities}


def _width(path: Path, arrays: Mapping[str, Array], modality: str) -> int:
    if modality not in arrays or arrays[modality].ndim != 2:
        shape = list(arrays[modality].shape) if modality in arrays else "not there"
        raise CacheError(f"{path}: {modality!r} should be an array [n, dim], but is {shape}.")
    return int(arrays[modality].shape[1])
