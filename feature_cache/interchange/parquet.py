"""A Parquet file per split, `train.parquet`, `validation.parquet`, `test.parquet`, and `classes.npz` (`arrays.py`).

The columns are `id` (text); per modality, by its name, lists of floats; and, where there are any, `caption` (text),
`label` and `open_label` (whole numbers, -1 for none). Read and written in pieces, so that nothing has to fit into
memory.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from feature_cache.errors import CacheError
from feature_cache.interchange.arrays import CLASSES, read_classes, write_classes
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
from feature_cache.manifest import MODALITY_ORDER, SPLITS
from feature_cache.reader import FeatureCache
from feature_cache.registry import check_name
from feature_cache.shards import SCHEMA, Rows

COLUMNS = ("id", "caption", "label", "open_label")


def read(request: Request) -> Incoming:
    """Reads a folder of Parquet files. Raises `CacheError` for what is not as the module says."""
    folder = existing_folder(request.path)
    paths = {split: folder / f"{split}.parquet" for split in SPLITS if (folder / f"{split}.parquet").is_file()}
    if not paths:
        raise CacheError(f"{folder} has none of train.parquet, validation.parquet and test.parquet. Check --path.")
    widths: dict[str, int] = {}
    for path in paths.values():
        with _open(path) as file:
            names = [name for name in file.schema_arrow.names if name not in COLUMNS]
            modalities = request.modalities or in_order(names, str(path))
            _check_schema(path, file.schema_arrow, widths or modalities)
            if not widths and file.metadata.num_rows:
                first = next(file.iter_batches(batch_size=1))
                widths = {modality: _matrix(path, first, modality, None).shape[1] for modality in modalities}
    if not widths:
        raise CacheError(f"There is not a single row in {', '.join(str(path) for path in paths.values())}.")
    label_sets, class_features = read_classes(folder)

    def blocks(split: str, size: int) -> Iterator[Block]:
        if split in paths:
            with _open(paths[split]) as file:
                for batch in file.iter_batches(batch_size=size):
                    features = {m: _matrix(paths[split], batch, m, width) for m, width in widths.items()}
                    yield _rows(paths[split], batch), features

    extra = (folder / CLASSES,) if class_features else ()
    return Incoming(widths, blocks, (*paths.values(), *extra), label_sets=label_sets, class_features=class_features)


def write(cache: FeatureCache, folder: Path) -> list[str]:
    """Writes a cache as Parquet files, float32."""
    folder.mkdir(parents=True, exist_ok=True)
    remove_earlier(folder, *(f"{split}.parquet" for split in SPLITS))
    lists = [pa.field(m, pa.list_(pa.float32(), spec.dim), False) for m, spec in cache.modalities.items()]
    schema = pa.schema([*SCHEMA, *lists])
    for split in filled_splits(cache):
        path = folder / f"{split}.parquet"
        with appearing(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as file:
            for rows, features in blocks_of(cache, split):
                table = rows.to_arrow()
                for field in lists:
                    values = pa.array(np.asarray(features[field.name], np.float32).ravel())
                    table = table.append_column(field, pa.FixedSizeListArray.from_arrays(values, field.type.list_size))
                file.write_table(table)
    write_classes(cache, folder)
    return [LEFT_OUT]


def _open(path: Path) -> Any:
    try:
        return pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise CacheError(
            f"{path} should be a Parquet file, but cannot be read as one: {error}. Write it again."
        ) from None


def _check_schema(path: Path, schema: pa.Schema, modalities: Any) -> None:
    for name in schema.names:
        check_name([*COLUMNS, *MODALITY_ORDER], f"column in {path}", name)
    for name in ("id", *modalities):
        if name not in schema.names:
            raise CacheError(f"{path} should have the column {name!r}, but has only {', '.join(schema.names)}.")
    surplus = sorted(set(schema.names) - set(COLUMNS) - set(modalities))
    if surplus:
        raise CacheError(f"{path} has features of {surplus[0]}, which another split, or --modalities, lacks.")
    for name in schema.names:
        kind, right = schema.field(name).type, _is_list
        if name in COLUMNS:
            right = _is_text if name in ("id", "caption") else pa.types.is_integer
        if not right(kind):
            wanted = {_is_list: "lists of floats", _is_text: "text"}.get(right, "whole numbers")
            raise CacheError(f"{path}: the column {name!r} should be {wanted}, but is {kind}. Cast it.")


def _is_list(kind: pa.DataType) -> bool:
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return bool(lists and pa.types.is_floating(kind.value_type))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _rows(path: Path, batch: pa.RecordBatch) -> Rows:
    defaults: dict[str, Any] = {"caption": "", "label": -1, "open_label": -1}
    columns: list[list[Any]] = [
        batch[name].to_pylist() if name in batch.schema.names else [defaults[name]] * len(batch) for name in COLUMNS
    ]
    for name, values in zip(COLUMNS, columns, strict=True):
        if None in values:
            raise CacheError(f"{path}: the column {name!r} should have a value in every row, but one is null.")
    return Rows(*columns)


def _matrix(path: Path, batch: pa.RecordBatch, modality: str, width: int | None) -> Array:
    """A column of lists of one length as [n, dim]. Raises `CacheError`, naming the item."""
    column = batch[modality]
    lengths = pc.list_value_length(column).fill_null(-1).to_numpy(zero_copy_only=False)
    width = int(lengths[0]) if width is None else width
    bad = np.flatnonzero(lengths != width)
    if len(bad) or width < 1:
        item, found = batch["id"][int(bad[0]) if len(bad) else 0], lengths[bad[0]] if len(bad) else width
        was = "null" if found < 0 else f"{found} long"
        raise CacheError(f"{path}: {modality!r} of {item} should be a list of {max(width, 1)} floats, but is {was}.")
    values = column.flatten()
    if values.null_count:
        raise CacheError(f"{path}: {modality!r} should be lists of floats, but one of the numbers is null.")
    return np.asarray(values.to_numpy(zero_copy_only=False)).reshape(len(batch), width)
