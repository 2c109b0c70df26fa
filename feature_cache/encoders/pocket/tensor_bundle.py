"""Reads a TensorFlow tensor bundle (a SavedModel's `variables.index` and `variables.data-…`) without TensorFlow.

The index is a LevelDB table: blocks of prefix-compressed keys, found through an index block, found through a footer of
48 bytes. A key is a tensor's name, its value a `BundleEntryProto` that says where in the data files the tensor lies.

Sources: tensorflow/core/protobuf/tensor_bundle.proto, tensorflow/core/lib/io/table_format.txt.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

_MAGIC = (0xDB4775248B80FB57).to_bytes(8, "little")
_FOOTER_SIZE = 48
_TRAILER_SIZE = 5  # one byte for the compression, four for the checksum

# tensorflow/core/framework/types.proto
_DTYPES = {1: "<f4", 2: "<f8", 3: "<i4", 4: "u1", 6: "i1", 9: "<i8", 10: "?", 19: "<f2"}


class TensorBundleError(ValueError):
    """The files are not a bundle, are cut short or damaged, or use a feature that this reader does not know."""


class _Entry(NamedTuple):
    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int


def read_bundle(prefix: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Reads all tensors of a bundle.

    Tensors whose type numpy has no name for (the strings of a checkpoint's object graph) are left out. The checksums
    of the index are verified, those of the data files are not.

    Args:
        prefix: the files' common beginning, ".../variables/variables".

    Returns:
        Name of each tensor, as the checkpoint has it, to its value.

    Raises:
        TensorBundleError: names the file and what is wrong with it.
        FileNotFoundError: a file of the bundle is missing.
    """
    index = prefix.with_name(prefix.name + ".index")
    try:
        shards, entries = _read_index(index.read_bytes())
    except (TensorBundleError, IndexError, UnicodeDecodeError, KeyError) as error:
        raise TensorBundleError(f"{index} is not a readable index of a tensor bundle: {error}") from error
    files = [prefix.with_name(f"{prefix.name}.data-{shard:05d}-of-{shards:05d}") for shard in range(shards)]
    return {name: _read_tensor(files[entry.shard], name, entry) for name, entry in entries.items()}


def _read_index(table: bytes) -> tuple[int, dict[str, _Entry]]:
    if len(table) < _FOOTER_SIZE or table[-8:] != _MAGIC:
        raise TensorBundleError(f"its {len(table)} bytes do not end with the footer of a table")
    pairs = dict(_pairs(table))
    header = _message(pairs.pop(b""))
    if header.get(2, [0])[0] != 0:
        raise TensorBundleError("it describes big-endian tensors")
    entries = {name.decode(): _entry(value) for name, value in pairs.items()}
    return header[1][0], {name: entry for name, entry in entries.items() if entry.dtype in _DTYPES}


def _entry(message: bytes) -> _Entry:
    fields = _message(message)
    dims = _message(fields[2][0]).get(2, []) if 2 in fields else []
    shape = tuple(_message(dim).get(1, [0])[0] for dim in dims)
    dtype, shard, offset, size = (fields.get(number, [0])[0] for number in (1, 3, 4, 5))
    return _Entry(dtype, shape, shard, offset, size)


def _read_tensor(file: Path, name: str, entry: _Entry) -> np.ndarray[Any, Any]:
    dtype = np.dtype(_DTYPES[entry.dtype])
    count = math.prod(entry.shape)
    if entry.size != count * dtype.itemsize:
        raise TensorBundleError(f"{file}: the index gives {name}, {dtype} {entry.shape}, a size of {entry.size} bytes")
    values = np.fromfile(file, dtype, count, offset=entry.offset)
    if values.size != count:
        raise TensorBundleError(
            f"{file} is cut short: it has {file.stat().st_size} bytes, and {name} needs bytes {entry.offset} to "
            f"{entry.offset + entry.size}"
        )
    return values.reshape(entry.shape)


def _pairs(table: bytes) -> Iterator[tuple[bytes, bytes]]:
    footer = table[-_FOOTER_SIZE:]
    _, at = _handle(footer, 0)  # the meta index, which a bundle does not use
    for _, handle in _block(table, *_handle(footer, at)[0]):
        yield from _block(table, *_handle(handle, 0)[0])


def _handle(data: bytes, at: int) -> tuple[tuple[int, int], int]:
    offset, at = _varint(data, at)
    size, at = _varint(data, at)
    return (offset, size), at


def _block(table: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """The pairs of one block; a key is stored as the length of what it shares with the last one, and the rest."""
    block, trailer = table[offset : offset + size], table[offset + size : offset + size + _TRAILER_SIZE]
    if len(trailer) < _TRAILER_SIZE:
        raise TensorBundleError(f"the block at bytes {offset} to {offset + size} lies beyond its {len(table)} bytes")
    if _masked_crc32c(block + trailer[:1]) != int.from_bytes(trailer[1:], "little"):
        raise TensorBundleError(f"the checksum of the block at bytes {offset} to {offset + size} is wrong")
    if trailer[0] != 0:
        raise TensorBundleError(f"the block at bytes {offset} to {offset + size} is compressed")
    restarts = int.from_bytes(block[-4:], "little")
    key, at, end = b"", 0, size - 4 - 4 * restarts
    while at < end:
        shared, at = _varint(block, at)
        rest, at = _varint(block, at)
        length, at = _varint(block, at)
        key = key[:shared] + block[at : at + rest]
        at += rest + length
        yield key, block[at - length : at]


def _message(data: bytes) -> dict[int, list[Any]]:
    """The fields of a protocol buffer by number, each with all its values."""
    fields: dict[int, list[Any]] = {}
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        value: int | bytes
        if tag & 7 == 0:
            value, at = _varint(data, at)
        else:
            size, at = _varint(data, at) if tag & 7 == 2 else ({1: 8, 5: 4}[tag & 7], at)
            value, at = data[at : at + size], at + size
        fields.setdefault(tag >> 3, []).append(value)
    return fields


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """The integer at `data[at]`, seven bits a byte and the lowest first, and the position after it.

    >>> _varint(bytes([0xAC, 0x02, 0x07]), 0)
    (300, 2)
    """
    value = shift = 0
    while data[at] >= 0x80:
        value |= (data[at] & 0x7F) << shift
        shift, at = shift + 7, at + 1
    return value | data[at] << shift, at + 1


def _crc_table() -> list[int]:
    table = list(range(256))
    for _ in range(8):
        table = [entry >> 1 ^ 0x82F63B78 * (entry & 1) for entry in table]
    return table


_CRC_TABLE = _crc_table()


def _masked_crc32c(data: bytes) -> int:
    """CRC-32C, rotated and shifted as LevelDB stores it.

    >>> hex(_masked_crc32c(b"123456789"))  # the unmasked check value of CRC-32C is e3069283
    '0xc78ab0e5'
    """
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC_TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
