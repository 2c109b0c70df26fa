"""The layout of the public reference (https://github.com/Xiaohao-Liu/CMCL, `perceptors/*.py`, `feature_dataset.py`).

    esc50_train_imagebind.h5  esc50_test_imagebind.h5  esc50_class_imagebind.h5

A file per split has an HDF5 dataset per item, [n_modalities, dim], its rows in storage order. Its key is
`id__name__class` for ImageBind and the bare id for other encoders. `name` is the item's class in UCF101, ESC-50, NYUDv2
and VGGSound, the caption in TVL, and "no label" in Clotho and LLVIP. `class` is a number in the order in which one run
of the reference met the names, which nothing reads: here labels count the sorted names, and that number is left out in
reading, and is the label in writing, 0 without classes. The class file has [dim] per class name. HDF5 takes a "/" in a
key for a group within a group; such items are found all the same.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from jaxtyping import Float

from feature_cache.datasets.ucf101 import in_words
from feature_cache.errors import CacheError
from feature_cache.interchange.base import (
    LEFT_OUT,
    Array,
    Block,
    Incoming,
    Request,
    appearing,
    blocks_of,
    existing_folder,
    remove_earlier,
)
from feature_cache.manifest import SPLITS, ClassLabel
from feature_cache.reader import FeatureCache
from feature_cache.shards import Rows

NO_LABEL = "no label"
NAMED = ("imagebind",)
"""Encoders whose keys have name and class beside the id."""
NEEDED = ("train", "test")
ALIKE = 1e-3
"""A text's embedding is a class's if they differ by at most this share of its length: batches differ by rounding."""


@dataclass(frozen=True)
class Layout:
    """What the reference stores of one dataset.

    Attributes:
        modalities: the rows of an item.
        names: what the name in a key is.
        texts: the text of a class; "name" = its name, "words" = the words of its name, None = unknown.
    """

    modalities: tuple[str, ...]
    names: Literal["class", "caption", "nothing"]
    texts: Literal["name", "words"] | None = "name"


LAYOUTS = {
    "ucf101": Layout(("text", "video"), "class", "words"),
    "esc50": Layout(("text", "audio"), "class"),
    "nyudv2": Layout(("vision", "text", "depth"), "class"),
    "vggsound_s": Layout(("text", "audio", "video"), "class"),
    "clotho": Layout(("text", "audio"), "nothing"),
    "tvl": Layout(("vision", "text", "tactile"), "caption"),
    "llvip": Layout(("vision", "thermal"), "nothing"),
}


@dataclass(frozen=True)
class Key:
    """One item's key in a file, and what it says."""

    text: str
    id: str
    name: str | None


@dataclass(frozen=True)
class Labels:
    """The classes of a dataset: sorted, with the embeddings of their texts."""

    classes: tuple[ClassLabel, ...] = ()
    features: Float[np.ndarray, "n_classes dim"] | None = None
    index: Mapping[str, int] = field(default_factory=dict)


def read(request: Request) -> Incoming:
    """Reads a folder of the reference's files of one dataset and encoder.

    The rows of a split are in the order of their keys, as in the reference's training.

    Raises `CacheError` for a file that is missing or does not fit: wrong number of rows, another width, an id that is
    there under two keys, a class that the class file does not have.
    """
    layout = _layout(request)
    paths = {split: _path(request, split) for split in SPLITS}
    missing = [paths[split] for split in NEEDED if not paths[split].is_file()]
    if missing:
        found = ", ".join(sorted(path.name for path in existing_folder(request.path).glob("*.h5"))) or "no .h5 file"
        raise CacheError(
            f"{missing[0]} is missing. The reference stores a dataset as "
            f"{' and '.join(paths[split].name for split in NEEDED)}; in that folder there is {found}. Check --path, "
            "--dataset and --encoder."
        )
    keys = {split: _keys(path, request, layout) for split, path in paths.items() if path.is_file()}
    width = _width(paths, keys, len(layout.modalities))
    labels, notes = _labels(request, layout, paths, keys)
    class_path = _path(request, "class")
    used = (class_path,) if labels.classes and class_path.is_file() else ()

    def blocks(split: str, size: int) -> Iterator[Block]:
        if split in keys:
            yield from _blocks(paths[split], keys[split], layout, labels, width, size)

    return Incoming(
        widths=dict.fromkeys(layout.modalities, width),
        blocks=blocks,
        files=(*(paths[split] for split in keys), *used),
        label_sets={"classes": labels.classes} if labels.classes else {},
        class_features={} if labels.features is None else {"classes": labels.features},
        notes=notes,
    )


def write(cache: FeatureCache, folder: Path) -> list[str]:
    """Writes a cache as the reference's files, float32; train and test always, validation only if it has rows.

    Raises `CacheError` if the modalities' widths differ, or an id cannot be a key.
    """
    manifest = cache.manifest
    widths = {spec.dim for spec in cache.modalities.values()}
    if len(widths) > 1:
        stated = ", ".join(f"{name} {spec.dim}" for name, spec in cache.modalities.items())
        raise CacheError(
            f"{cache.path} cannot be written as the reference's HDF5, which has one width for all modalities, but "
            f"here they have {stated}. --to=npz, parquet, tfds and webdataset can."
        )
    request = Request(folder, manifest.encoder, manifest.dataset)
    texts = {} if cache.class_features is None else dict(zip(cache.class_names, cache.class_features, strict=True))
    rank = {name: index for index, name in enumerate(sorted(texts))}
    remove_earlier(folder, *(_path(request, part).name for part in (*SPLITS, "class")))
    for split in SPLITS:
        count = manifest.splits[split].count if split in manifest.splits else 0
        if count or split in NEEDED:
            with appearing(_path(request, split)) as path, h5py.File(path, "w") as file:
                for rows, features in blocks_of(cache, split):
                    stacked = np.stack([np.asarray(features[m], np.float32) for m in cache.modalities], axis=1)
                    for key, value in zip(_written_keys(cache, rows, rank), stacked, strict=True):
                        _create(file, key, value)
    if texts:
        with appearing(_path(request, "class")) as path, h5py.File(path, "w") as file:
            for name, value in texts.items():
                _create(file, name, np.asarray(value, np.float32))
    return _left_out(cache)


def parse_key(key: str, layout: Layout, named: bool) -> tuple[str, str | None]:
    """Id and name of a key; the name is None where keys have none.

    >>> parse_key("ab__c___000030__dog, barking__7", LAYOUTS["vggsound_s"], named=True)
    ('ab__c___000030', 'dog, barking')
    >>> parse_key("vision_ssvtp_3__soft__ly, hard__1,4", LAYOUTS["tvl"], named=True)
    ('vision_ssvtp_3', 'soft__ly, hard')

    Raises `ValueError`.
    """
    if not named:
        return key, None
    # An id may have underscores where names are classes, and the caption may where they are TVL's.
    pattern = r"(.+?)__(.*)__([\d,]+)" if layout.names == "caption" else r"(.+)__(.+?)__(\d+)"
    found = re.fullmatch(pattern, key, re.DOTALL)
    if not found:
        raise ValueError(key)
    return found[1], found[2]


def class_text(name: str, layout: Layout) -> str:
    """The text whose embedding stands for a class; "" where it is unknown.

    >>> class_text("ApplyEyeMakeup", LAYOUTS["ucf101"]), class_text("dog", LAYOUTS["esc50"])
    ('apply eye makeup', 'dog')
    """
    if layout.texts is None:
        return ""
    return in_words(name) if layout.texts == "words" else name


def _layout(request: Request) -> Layout:
    known = LAYOUTS.get(request.dataset)
    if request.modalities is None and known is None:
        raise CacheError(
            f"The dataset {request.dataset!r} is none of the reference's ({', '.join(sorted(LAYOUTS))}), so that the "
            "files do not tell what the rows of an item are: say it with --modalities=text,audio, or as it is."
        )
    if known is None:
        return Layout(request.modalities or (), "class", None)
    return Layout(request.modalities or known.modalities, known.names, known.texts)


def _path(request: Request, part: str) -> Path:
    return request.path / f"{request.dataset}_{part}_{request.encoder}.h5"


def _open(path: Path) -> Any:
    try:
        return h5py.File(path, "r", locking=False)  # many shared file systems cannot lock
    except OSError as error:
        raise CacheError(f"{path} should be an HDF5 file, but cannot be read as one: {error}. Copy it again.") from None


def _dataset_names(file: Any) -> list[str]:
    """The names of all datasets in a file, in whatever group; sorted."""
    names: list[str] = []
    file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
    return sorted(names)


def _keys(path: Path, request: Request, layout: Layout) -> list[Key]:
    """The keys of a file in order. Raises `CacheError` for one that cannot be taken apart, and for an id twice."""
    with _open(path) as file:
        names = _dataset_names(file)
    keys: dict[str, Key] = {}
    for name in names:
        try:
            key = Key(name, *parse_key(name, layout, request.encoder in NAMED))
        except ValueError:
            raise CacheError(
                f"{path}: keys of the encoder {request.encoder} should be id__name__class, but one is {name!r}. If "
                "the file is another encoder's, say so with --encoder, and rename it to match."
            ) from None
        if key.id in keys:
            raise CacheError(
                f"{path}: the id {key.id!r} is there twice, as {keys[key.id].text!r} and as {name!r}. The reference "
                "does that when it is run again and numbers the classes otherwise; delete one of the two."
            )
        keys[key.id] = key
    return list(keys.values())


def _width(paths: Mapping[str, Path], keys: Mapping[str, Sequence[Key]], rows: int) -> int:
    """The width of the first item. Raises `CacheError` if there is none, or if it is no matrix."""
    for split, found in keys.items():
        if found:
            with _open(paths[split]) as file:
                shape = file[found[0].text].shape
            if len(shape) != 2:
                raise _misfit(paths[split], found[0].text, f"[{rows}, dim]", list(shape))
            return int(shape[1])
    raise CacheError(f"There is not a single item in {', '.join(str(paths[split]) for split in keys)}.")


def _labels(
    request: Request, layout: Layout, paths: Mapping[str, Path], keys: Mapping[str, Sequence[Key]]
) -> tuple[Labels, tuple[str, ...]]:
    """The classes with their texts' embeddings, and what is to be said of them."""
    path = _path(request, "class")
    if layout.names != "class":
        left = (f"{path.name} is left out: {request.dataset} has no classes.",) if path.is_file() else ()
        return Labels(), left
    names = sorted({key.name for found in keys.values() for key in found if key.name not in (None, NO_LABEL)})
    if path.is_file():
        with _open(path) as file:
            features = {name: np.asarray(file[name][()]) for name in _dataset_names(file) if name != NO_LABEL}
        absent = [name for name in names if name not in features]
        if absent:
            raise CacheError(f"{path}: there is no class {absent[0]!r}, which an item has; make the file again.")
        return _sorted_labels(layout, features), ()
    if not names or "text" not in layout.modalities:
        return Labels(), (f"{path.name} is missing: the items get no labels.",)
    features = {}
    row = layout.modalities.index("text")
    for split, found in keys.items():
        with _open(paths[split]) as file:
            for key in found:
                if key.name is not None and key.name != NO_LABEL and key.name not in features:
                    features[key.name] = _item(paths[split], file, key, len(layout.modalities))[row]
    note = f"{path.name} is missing: the text of the first item of a class stands for it, as in the reference."
    return _sorted_labels(layout, features), (note,)


def _sorted_labels(layout: Layout, features: Mapping[str, Array]) -> Labels:
    names = sorted(features)
    if not names:
        return Labels()
    classes = tuple(ClassLabel(name, class_text(name, layout)) for name in names)
    return Labels(classes, np.stack([features[name] for name in names]), {name: i for i, name in enumerate(names)})


def _blocks(path: Path, keys: Sequence[Key], layout: Layout, labels: Labels, width: int, size: int) -> Iterator[Block]:
    with _open(path) as file:
        for start in range(0, len(keys), size):
            part = keys[start : start + size]
            items = np.stack([_item(path, file, key, len(layout.modalities), width) for key in part])
            features = {modality: items[:, row] for row, modality in enumerate(layout.modalities)}
            known = _row_labels(path, part, layout, labels, features)
            yield Rows([key.id for key in part], _captions(part, layout, labels, known), known), features


def _item(path: Path, file: Any, key: Key, rows: int, width: int | None = None) -> Array:
    value = np.asarray(file[key.text][()])
    if value.ndim != 2 or len(value) != rows or width not in (None, value.shape[1]) or value.dtype.kind != "f":
        raise _misfit(path, key.text, f"[{rows}, {width or 'dim'}]", f"{list(value.shape)} of {value.dtype}")
    return value


def _misfit(path: Path, key: str, wanted: str, found: object) -> CacheError:
    return CacheError(
        f"{path}: the features of {key!r} should be {wanted} floating-point numbers, a row per modality, but are "
        f"{found}. If the file has other modalities than the reference's, name them with --modalities."
    )


def _row_labels(
    path: Path, keys: Sequence[Key], layout: Layout, labels: Labels, features: Mapping[str, Array]
) -> list[int]:
    """A key's class by its name; without names, the class whose text has the embedding that the item's text has.

    In the reference's datasets there is one; in others, an item whose text is its own has no class.
    """
    if not labels.classes or labels.features is None:
        return [-1] * len(keys)
    if keys[0].name is not None:
        return [labels.index.get(key.name or NO_LABEL, -1) for key in keys]
    if "text" not in features:
        return [-1] * len(keys)
    texts, classes = features["text"].astype(np.float64), labels.features.astype(np.float64)
    squares = (classes**2).sum(axis=1)
    distances = (texts**2).sum(axis=1)[:, None] + squares - 2 * texts @ classes.T
    alike = distances <= ALIKE**2 * squares
    counts = alike.sum(axis=1)
    for key, count in zip(keys, counts, strict=True):
        if count != 1 and layout.texts is not None:
            raise CacheError(
                f"{path}: the text of {key.id!r} should be embedded as that of one class is, which is how its class is "
                f"known, but {count} classes have such an embedding. The class file belongs to other features?"
            )
    return [int(index) for index in np.where(counts == 1, alike.argmax(axis=1), -1)]


def _captions(keys: Sequence[Key], layout: Layout, labels: Labels, known: Sequence[int]) -> list[str]:
    """TVL's captions are in its keys, those of classification sets are the texts of the classes; else unknown: ""."""
    if layout.names == "caption":
        return [key.name or "" for key in keys]
    return [labels.classes[label].text if label >= 0 else "" for label in known]


def _written_keys(cache: FeatureCache, rows: Rows, rank: Mapping[str, int]) -> list[str]:
    if cache.manifest.encoder not in NAMED:
        return list(rows.ids)
    names = _written_names(cache, rows)
    return [f"{item}__{name}__{rank.get(name, len(rank))}" for item, name in zip(rows.ids, names, strict=True)]


def _written_names(cache: FeatureCache, rows: Rows) -> list[str]:
    """The captions where the reference has those; else the classes."""
    layout = LAYOUTS.get(cache.manifest.dataset)
    if layout and layout.names == "caption":
        return [caption or NO_LABEL for caption in rows.captions]
    return [cache.class_names[label] if label >= 0 else NO_LABEL for label in rows.labels]


def _create(file: Any, key: str, value: Array) -> None:
    if "\0" in key or any(part in ("", ".") for part in key.split("/")):
        raise CacheError(
            f"The key {key!r} cannot be written as HDF5, where a / separates groups, and neither an empty part, nor "
            '".", nor a NUL is a name. Export with --to=npz, parquet, tfds or webdataset.'
        )
    try:
        file.create_dataset(key, data=value)
    except (ValueError, TypeError) as error:
        raise CacheError(
            f"The key {key!r} cannot be written as HDF5: {error}. It is there twice, or is another key with a / and "
            "more behind it. Export with --to=npz, parquet, tfds or webdataset."
        ) from None


def _left_out(cache: FeatureCache) -> list[str]:
    notes = [LEFT_OUT, "Nor for the order of the rows."]
    if cache.manifest.dataset not in ("tvl",) or cache.manifest.encoder not in NAMED:
        notes.append("Nor for captions.")
    if cache.open_class_names:
        notes.append("Nor for open classes.")
    return notes
