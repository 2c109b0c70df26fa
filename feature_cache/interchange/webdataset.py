"""WebDataset tars: `train*.tar`, `validation*.tar`, `test*.tar`, and `classes.npz` beside them: see `arrays.py`.

The members of an item have one key, the part of their name before the first dot of its last component, and follow one
another: `key.<modality>.npy`, an array [dim], for each modality, and `key.json`, an object with, where there are any,
`id` (the key if absent), `caption`, `label` and `open_label` (whole numbers, -1 for none). Other members are an error.
Tars are read in the order of their names, whole items at a time. Nothing is unpickled.
"""

import io
import json
import tarfile
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from feature_cache.errors import CacheError
from feature_cache.interchange.arrays import CLASSES, read_classes, reading, write_classes
from feature_cache.interchange.base import (
    LEFT_OUT,
    Array,
    Block,
    Incoming,
    Request,
    appearing,
    blocks_of,
    existing_folder,
    filled_splits,
    in_order,
    remove_earlier,
)
from feature_cache.manifest import SPLITS
from feature_cache.reader import FeatureCache
from feature_cache.registry import check_name
from feature_cache.shards import Rows

FIELDS = {"id": str, "caption": str, "label": int, "open_label": int}
Sample: TypeAlias = tuple[dict[str, Any], dict[str, Array]]
"""The fields of an item, with its key as id unless it has another, and its features."""


def read(request: Request) -> Incoming:
    """Reads a folder of tars. Raises `CacheError` for what is not as the module says."""
    folder = existing_folder(request.path)
    paths = {split: sorted(folder.glob(f"{split}*.tar")) for split in SPLITS}
    tars = [path for split in SPLITS for path in paths[split]]
    if not tars:
        raise CacheError(f"{folder} has no train*.tar, validation*.tar or test*.tar. Check --path.")
    first = next(chain.from_iterable(map(_samples, tars)), None)
    if first is None:
        raise CacheError(f"There is not a single item in {', '.join(map(str, tars))}.")
    modalities = request.modalities or in_order(first[1].keys(), str(tars[0]))
    widths = {modality: len(first[1][modality]) for modality in modalities if modality in first[1]}
    label_sets, class_features = read_classes(folder)

    def blocks(split: str, size: int) -> Iterator[Block]:
        samples = chain.from_iterable(map(_samples, paths[split]))
        while part := list(islice(samples, size)):
            yield _block(folder, part, widths)

    extra = (folder / CLASSES,) if class_features else ()
    return Incoming(widths, blocks, (*tars, *extra), label_sets=label_sets, class_features=class_features)


def write(cache: FeatureCache, folder: Path) -> list[str]:
    """Writes a cache as tars, one per shard of it, in the dtype of the cache; keys are numbers, ids are in the JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    remove_earlier(folder, *(f"{split}-{'[0-9]' * 5}.tar" for split in SPLITS))
    for split in filled_splits(cache):
        number = 0
        for index, (rows, features) in enumerate(blocks_of(cache, split)):
            with appearing(folder / f"{split}-{index:05d}.tar") as temporary, tarfile.open(temporary, "w") as tar:
                for row in range(len(rows)):
                    fields = dict(zip(FIELDS, (column[row] for column in _columns(rows)), strict=True))
                    _add(tar, f"{number:09d}.json", json.dumps(fields, ensure_ascii=False).encode())
                    for modality in cache.modalities:
                        _add(tar, f"{number:09d}.{modality}.npy", _npy(features[modality][row]))
                    number += 1
    write_classes(cache, folder)
    return [LEFT_OUT]


def _samples(path: Path) -> Iterator[Sample]:
    """The items of a tar, one after the other."""
    current: str | None = None
    fields: dict[str, Any] = {}
    features: dict[str, Array] = {}
    for name, data in _members(path):
        parent, _, last = name.rpartition("/")
        stem, _, ending = last.partition(".")
        key = f"{parent}/{stem}" if parent else stem
        if key != current:
            if current is not None:
                yield fields, features
            current, fields, features = key, {"id": key, "caption": "", "label": -1, "open_label": -1}, {}
        if ending == "json":
            fields |= _fields(path, name, data)
        elif ending.endswith(".npy"):
            features[ending.removesuffix(".npy")] = _vector(path, name, data)
        else:
            raise CacheError(f"{path}: members should be called key.<modality>.npy or key.json, but one is {name!r}.")
    if current is not None:
        yield fields, features


def _members(path: Path) -> Iterator[tuple[str, bytes]]:
    try:
        with tarfile.open(path, "r:*") as tar:
            for member in tar:
                if member.isfile():
                    content = tar.extractfile(member)
                    assert content is not None  # a file has content
                    yield member.name.removeprefix("./"), content.read()
    except (tarfile.TarError, OSError, EOFError) as error:
        raise CacheError(f"{path} should be a tar, but cannot be read as one: {error}. Write it again.") from None


def _fields(path: Path, name: str, data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except ValueError as error:
        raise CacheError(f"{path}: {name} should be JSON, but is not: {error}.") from None
    if not isinstance(found, dict):
        raise CacheError(f"{path}: {name} should be a JSON object, but is a {type(found).__name__}.")
    for field, value in found.items():
        check_name(FIELDS, f"field in {path}, {name}", field)
        if type(value) is not FIELDS[field]:
            kind = FIELDS[field].__name__
            raise CacheError(f"{path}: {field!r} in {name} should be a {kind}, but is {value!r}.")
    return found


def _vector(path: Path, name: str, data: bytes) -> Array:
    value: Array = reading(path / name, lambda: np.load(io.BytesIO(data), allow_pickle=False), "an .npy array")
    if value.ndim != 1 or value.dtype.kind != "f":
        found = f"{list(value.shape)} of {value.dtype}"
        raise CacheError(f"{path}: {name} should be [dim] floating-point numbers, but is {found}.")
    return value


def _block(folder: Path, samples: list[Sample], widths: dict[str, int]) -> Block:
    for fields, features in samples:
        shapes = {modality: len(values) for modality, values in features.items()}
        if shapes != widths:
            raise CacheError(f"{folder}: the item {fields['id']!r} should have features of {widths}, but has {shapes}.")
    rows = Rows(*([fields[name] for fields, _ in samples] for name in FIELDS))
    return rows, {modality: np.stack([features[modality] for _, features in samples]) for modality in widths}


def _columns(rows: Rows) -> tuple[tuple[Any, ...], ...]:
    return rows.ids, rows.captions, rows.labels, rows.open_labels


def _npy(value: Array) -> bytes:
    data = io.BytesIO()
    np.save(data, np.ascontiguousarray(value), allow_pickle=False)
    return data.getvalue()


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)  # its time is 0, so that equal caches make equal tars
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))
