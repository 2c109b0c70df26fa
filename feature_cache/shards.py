"""The two files of a shard as bytes and back: embeddings as safetensors; ids, labels and captions as Parquet."""

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.numpy
from jaxtyping import Float

from feature_cache.errors import DamagedCacheError

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), False),
        pa.field("label", pa.int32(), False),
        pa.field("open_label", pa.int32(), False),
        pa.field("caption", pa.string(), False),
    ]
)
DTYPE_CODES = {"float16": "F16", "float32": "F32"}
Tensors: TypeAlias = "dict[str, Float[np.ndarray, 'n dim']]"


@dataclass(frozen=True)
class Rows:
    """What is known of each row besides its features: id, caption, label, open label (-1 = no class); aligned."""

    ids: tuple[str, ...]
    captions: tuple[str, ...]
    labels: tuple[int, ...]
    open_labels: tuple[int, ...]

    def __init__(
        self,
        ids: Iterable[str],
        captions: Iterable[str],
        labels: Iterable[int],
        open_labels: Iterable[int] | None = None,
    ) -> None:
        """Without open labels, no row has one."""
        object.__setattr__(self, "ids", tuple(ids))
        object.__setattr__(self, "captions", tuple(captions))
        object.__setattr__(self, "labels", tuple(int(label) for label in labels))
        opened = [-1] * len(self.ids) if open_labels is None else open_labels
        object.__setattr__(self, "open_labels", tuple(int(label) for label in opened))
        if not len(self.ids) == len(self.captions) == len(self.labels) == len(self.open_labels):
            counts = (
                f"{len(self.ids)} ids, {len(self.captions)} captions, {len(self.labels)} labels and "
                f"{len(self.open_labels)} open labels"
            )
            raise ValueError(f"Rows should have as many captions, labels and open labels as ids, but has {counts}.")

    def __len__(self) -> int:
        return len(self.ids)

    def to_arrow(self) -> pa.Table:
        """The same as an Arrow table of `SCHEMA`."""
        columns = (self.ids, self.labels, self.open_labels, self.captions)
        return pa.table([list(column) for column in columns], schema=SCHEMA)

    def without(self, ids: Collection[str]) -> "Rows":
        """The rows that have none of these ids."""
        keep = [item not in ids for item in self.ids]
        return Rows(
            compress(self.ids, keep),
            compress(self.captions, keep),
            compress(self.labels, keep),
            compress(self.open_labels, keep),
        )


def table_bytes(rows: Rows, metadata: Mapping[str, Any]) -> bytes:
    """The Parquet file of `rows`, with checksums of its pages; each value of `metadata` is stored as JSON."""
    encoded = {key: json.dumps(value, sort_keys=True) for key, value in metadata.items()}
    sink = pa.BufferOutputStream()
    table = rows.to_arrow().replace_schema_metadata(encoded)
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return bytes(sink.getvalue())


def read_table(path: Path) -> tuple[Rows, dict[str, Any]]:
    """The inverse of `table_bytes`. Raises `CacheError`."""
    try:
        table = pq.read_table(path, page_checksum_verification=True, partitioning=None)
        metadata = {k.decode(): json.loads(v) for k, v in (table.schema.metadata or {}).items()}
        _check_columns(path, table.schema)
        columns = {name: table[name].to_pylist() for name in SCHEMA.names}
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DamagedCacheError(path, f"it should be a Parquet table, but {_reason(error)}") from None
    return Rows(columns["id"], columns["caption"], columns["label"], columns["open_label"]), metadata


def check_table(path: Path, rows: int) -> None:
    """Reads the end of a Parquet file: does it have the right columns, and so many rows? Raises `CacheError`."""
    try:
        with pq.ParquetFile(path) as file:
            found, schema = file.metadata.num_rows, file.schema_arrow
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DamagedCacheError(path, f"it should be a Parquet table, but {_reason(error)}") from None
    if found != rows:
        raise DamagedCacheError(path, f"it should have {rows} rows, but has {found}")
    _check_columns(path, schema)


def _check_columns(path: Path, schema: pa.Schema) -> None:
    if not schema.equals(SCHEMA, check_metadata=False):
        raise DamagedCacheError(path, f"its columns should be {_columns(SCHEMA)}, but are {_columns(schema)}")


def tensors_bytes(tensors: Mapping[str, np.ndarray[Any, Any]]) -> bytes:
    """The safetensors file of `tensors`."""
    return bytes(safetensors.numpy.save({name: np.ascontiguousarray(value) for name, value in tensors.items()}))


def check_tensors(path: Path, shapes: Mapping[str, tuple[int | None, ...]], dtype: str) -> None:
    """Reads the header of a safetensors file: names, shapes (None = any) and dtype. Raises `CacheError`."""
    try:
        with safetensors.safe_open(path, framework="np") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (the file is no dict)
            found = {name: (tuple(part.get_shape()), part.get_dtype()) for name, part in slices.items()}
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise DamagedCacheError(path, f"it should be a safetensors file, but {_reason(error)}") from None
    if set(found) != set(shapes):
        raise DamagedCacheError(path, f"its arrays should be {_names(shapes)}, but are {_names(found)}")
    for name, expected in shapes.items():
        shape, code = found[name]
        if not _fits(shape, expected) or code != DTYPE_CODES[dtype]:
            wanted = f"{_shape(expected)} of {DTYPE_CODES[dtype]}"
            raise DamagedCacheError(path, f"array {name!r} should be {wanted}, but is {_shape(shape)} of {code}")


class Place(NamedTuple):
    """Where an array of a safetensors file is in it: dtype, first byte, shape."""

    dtype: np.dtype[Any]
    offset: int
    shape: tuple[int, ...]


def map_tensors(path: Path) -> Tensors:
    """Every array of a safetensors file, memory-mapped: nothing is read until it is used. Raises `CacheError`."""
    return {name: map_tensor(path, place) for name, place in tensor_places(path).items()}


def tensor_places(path: Path) -> dict[str, Place]:
    """Where the arrays of a safetensors file are, from its header. Raises `CacheError`.

    The library copies when it hands out numpy arrays, so the header is read here:
    eight bytes of length, then JSON (https://github.com/huggingface/safetensors#format).
    """
    dtypes = {code: np.dtype(name) for name, code in DTYPE_CODES.items()}
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        return {
            name: Place(dtypes[e["dtype"]], 8 + length + e["data_offsets"][0], tuple(e["shape"]))
            for name, e in header.items()
        }
    except (OSError, ValueError, KeyError) as error:
        raise DamagedCacheError(path, f"it should be a safetensors file, but {_reason(error)}") from None


def map_tensor(path: Path, place: Place) -> Float[np.ndarray, "n dim"]:
    """One array of a file, memory-mapped. Raises `CacheError`."""
    if 0 in place.shape:
        return np.zeros(place.shape, place.dtype)
    try:
        return np.memmap(path, place.dtype, "r", place.offset, place.shape)
    except (OSError, ValueError) as error:
        raise DamagedCacheError(path, f"it should be a safetensors file, but {_reason(error)}") from None


def _fits(shape: tuple[int, ...], expected: tuple[int | None, ...]) -> bool:
    return len(shape) == len(expected) and all(want in (None, have) for want, have in zip(expected, shape, strict=True))


def _shape(shape: tuple[int | None, ...]) -> str:
    return "[" + ", ".join("any" if size is None else str(size) for size in shape) + "]"


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _names(mapping: Mapping[str, Any]) -> str:
    return ", ".join(sorted(mapping)) or "none"


def _columns(schema: pa.Schema) -> str:
    return ", ".join(f"{f.name} ({f.type}{' or null' if f.nullable else ''})" for f in schema)
