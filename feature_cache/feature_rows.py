"""The features of one modality of a split as rows on disk: what is asked for is copied, nothing else is in memory."""

import math
import mmap
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from feature_cache import shards

LARGE = 1 << 20  # bytes


class FeatureRows:
    """Aligned rows in the shards of a split, indexed like an array of shape `(n, dim)`; every index gives a copy.

    A shard is memory-mapped while rows are copied out of it, and not longer: the pages that were read leave the
    process's resident memory with the mapping (the system's page cache may keep them, and gives them up when memory is
    wanted), and the number of shards is not limited by that of open files. Several threads may read at once.

    Example, of a cache with the modality text::

        rows = cache.rows("train", "text")
        rows.shape, rows[:100], rows[np.array([7, 3, 7])]

    Args:
        files: of the shards, in order.
        counts: rows of each.
        modality: name of the array in the files.
        dim: width of a row.
        dtype: as stored.
    """

    def __init__(
        self, files: Sequence[Path], counts: Sequence[int], modality: str, dim: int, dtype: np.dtype[Any]
    ) -> None:
        self.dtype = dtype
        self._files, self._modality, self._dim = tuple(files), modality, dim
        self._starts = np.cumsum([0, *counts])
        self._places: dict[int, shards.Place] = {}

    def __repr__(self) -> str:
        return f"FeatureRows({self._modality!r}, shape={self.shape}, dtype={self.dtype}, shards={self.shard_count})"

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def shape(self) -> tuple[int, int]:
        """`(n, dim)`."""
        return len(self), self._dim

    @property
    def nbytes(self) -> int:
        """What all rows would take in memory, in their stored dtype."""
        return len(self) * self._dim * self.dtype.itemsize

    @property
    def shard_count(self) -> int:
        """Number of files."""
        return len(self._files)

    def __getitem__(self, index: "slice | np.ndarray[Any, Any] | Sequence[int]") -> Float[np.ndarray, "*index dim"]:
        """The rows of a slice, or of an array of row numbers of any shape: the result has that shape and `dim` last.

        Row numbers come in any order and may repeat; within a shard they are read in ascending order.

        Raises:
            IndexError: for row numbers that are no integers, or not from 0 up to the number of rows.
        """
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step == 1:
                return self._range(start, max(start, stop))
            index = np.arange(start, stop, step)
        numbers = np.asarray(index)
        if not np.issubdtype(numbers.dtype, np.integer):
            if numbers.size:
                raise IndexError(f"rows must be a slice or an array of row numbers, but it is of {numbers.dtype}.")
            numbers = numbers.astype(int)
        if numbers.size and not (numbers.min() >= 0 and numbers.max() < len(self)):
            raise IndexError(
                f"rows must be from 0 up to {len(self) - 1}, but they are from {numbers.min()} to {numbers.max()}."
            )
        return self._gather(numbers.ravel()).reshape(*numbers.shape, self._dim)

    def map_shard(self, number: int) -> Float[np.ndarray, "n dim"]:
        """The rows of one shard, memory-mapped, not to be written to. Raises `CacheError`."""
        file = self._files[number]
        if number not in self._places:
            self._places[number] = shards.tensor_places(file)[self._modality]
        return shards.map_tensor(file, self._places[number])

    def _range(self, start: int, stop: int) -> Float[np.ndarray, "n dim"]:
        rows = _own_pages((stop - start, self._dim), self.dtype)
        for number, first, last in self._touched(start, stop):
            offset = self._starts[number]
            rows[first - start : last - start] = self.map_shard(number)[first - offset : last - offset]
        return rows

    def _touched(self, start: int, stop: int) -> list[tuple[int, int, int]]:
        """The shards that have rows of a range: number, first row and the row after the last, counted in the split."""
        bounds = np.clip(self._starts, start, stop).tolist()
        return [(i, *ends) for i, ends in enumerate(pairwise(bounds)) if ends[0] < ends[1]]

    def _gather(self, numbers: np.ndarray[Any, Any]) -> Float[np.ndarray, "n dim"]:
        rows = _own_pages((len(numbers), self._dim), self.dtype)
        order = np.argsort(numbers)
        ascending = numbers[order]
        bounds = np.searchsorted(ascending, self._starts).tolist()
        for number in np.flatnonzero(np.diff(bounds)).tolist():
            part = slice(bounds[number], bounds[number + 1])
            found = _own_pages((part.stop - part.start, self._dim), self.dtype)
            np.take(self.map_shard(number), ascending[part] - self._starts[number], axis=0, out=found, mode="clip")
            rows[order[part]] = found
        return rows


def _own_pages(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """An array whose pages go back to the system with it: of what malloc gives, threads may keep several times it.

    It begins at a page, so that JAX on a CPU takes it as it is instead of copying it.
    """
    size = math.prod(shape) * dtype.itemsize
    if size < LARGE:
        return np.empty(shape, dtype)
    return np.frombuffer(mmap.mmap(-1, size), dtype).reshape(shape)
